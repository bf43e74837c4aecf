"""Many messages in a few requests. Pure, and shared by both clients."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tidegate import _decode, _encode
from tidegate.errors import ServerError, TidegateError
from tidegate.models import Added, NewMessage
from tidegate.v1 import buffer_service_pb2 as buffer_pb2

# Of one request. The contract has 1000 entries, and a server takes 4 MiB.
MAX_ENTRIES = 512
MAX_BYTES = 1 << 20
# Batches in one request of the operator side.
MAX_BATCHES = 100


@dataclass(slots=True, repr=False)
class Part:
    """One request, and the places of its entries among the results."""

    request: buffer_pb2.AddMessagesRequest = field(default_factory=buffer_pb2.AddMessagesRequest)
    places: list[int] = field(default_factory=list[int])
    size: int = 0

    def has_room(self, size: int) -> bool:
        """For one entry more. The first always fits."""
        return not self.places or (len(self.places) < MAX_ENTRIES and self.size + size <= MAX_BYTES)

    def append(self, place: int, request: buffer_pb2.AddMessageRequest, size: int) -> None:
        """One entry more."""
        self.request.messages.append(request)
        self.places.append(place)
        self.size += size


class Many:
    """The requests for these messages, and the results so far."""

    def __init__(self, messages: Iterable[NewMessage]):
        self.results: list[Added | TidegateError] = []
        self.parts: list[Part] = []
        for place, message in enumerate(messages):
            try:
                request = _encode.new_message(message)
            except TidegateError as error:
                self.results.append(error)
            else:
                self.results.append(ServerError("the server did not answer for this entry"))
                self._append(place, request)

    def _append(self, place: int, request: buffer_pb2.AddMessageRequest) -> None:
        size = request.ByteSize()
        if not self.parts or not self.parts[-1].has_room(size):
            self.parts.append(Part())
        self.parts[-1].append(place, request, size)

    def heed(self, part: Part, response: buffer_pb2.AddMessagesResponse) -> None:
        """The server's answer to that part."""
        for place, result in zip(part.places, response.results, strict=False):
            self.results[place] = _decode.added_or_error(result)

    def give_up(self, part: Part, error: TidegateError) -> None:
        """That part failed as a whole; later ones are not sent, or they could overtake it.

        Raises the error if it is the first, so that nothing has been added.
        """
        failed = self.parts.index(part)
        if failed == 0:
            raise error
        for unsent in self.parts[failed:]:
            for place in unsent.places:
                self.results[place] = error


def id_groups(batch_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many groups as the calls that take ids need."""
    for start in range(0, len(batch_ids), MAX_BATCHES):
        yield batch_ids[start : start + MAX_BATCHES]
