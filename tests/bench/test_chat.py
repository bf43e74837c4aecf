"""Second thoughts: the simulated chat in a small size."""

from bench.chat import Script, play


async def test_commit_gives_each_turn_one_reply_and_leaves_nothing_unanswered():
    script = Script(conversations=40, turns=3, speed=40)
    records = await play(script)
    kept, without = records["with commit()"], records["without"]
    assert kept.second_thoughts > 5
    assert (kept.doubled, kept.unanswered) == (0, 0)
    assert without.doubled > 0
    assert without.unanswered == 0
