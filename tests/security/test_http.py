"""Who may look at what over HTTP."""

import ssl

import aiohttp
import pytest

from tests.security.gate import ANNA
from tests.support.secured import Papers, SecuredServer, Token


async def get(
    secured: SecuredServer, papers: Papers, path: str, token: Token | None, name: str | None
) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(papers.ca))
    if name:
        context.load_cert_chain(papers.folder / f"{name}.pem", papers.folder / f"{name}.key")
    headers = dict(token.metadata) if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(secured.http + path, headers=headers, ssl=context) as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
async def test_probes_need_nothing(secured: SecuredServer, papers: Papers, path: str):
    assert (await get(secured, papers, path, None, None))[0] == 200


@pytest.mark.parametrize(
    ("token", "name", "status", "says"),
    [
        (ANNA.everything, "client", 200, "tidegate_build_info"),
        (ANNA.global_admin, "client", 200, "tidegate_build_info"),
        (ANNA.everything, None, 403, "wants a certificate"),
        (None, "client", 401, "wants a token"),
        (Token("wr0ng"), "client", 401, "does not know that token"),
        (ANNA.producer, "client", 403, "lacks the role admin"),
        (ANNA.admin, "client", 403, "does not cover all instances"),
    ],
)
async def test_metrics_are_for_admins_of_everything(
    secured: SecuredServer,
    papers: Papers,
    token: Token | None,
    name: str | None,
    status: int,
    says: str,
):
    got, text = await get(secured, papers, "/metrics", token, name)
    assert got == status
    assert says in text


async def test_a_certificate_of_another_authority_is_refused(
    secured: SecuredServer, papers: Papers
):
    with pytest.raises(aiohttp.ClientError):
        await get(secured, papers, "/healthz", None, "stranger")


async def test_without_tls_there_is_no_answer(secured: SecuredServer):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(secured.http.replace("https:", "http:"))
