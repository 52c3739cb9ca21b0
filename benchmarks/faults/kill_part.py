"""Trainings that are killed by SIGKILL at random moments, again and again, and resumed to the end."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from faults.outcomes import Outcome
from faults.training import Part, Place

#: Kills of a training before it may end.
_CHAIN = 5


class Kills(Part):
    """Each training is killed up to five times, the cache is its own; at its end it must be the undisturbed one."""

    name, title, count = "kills", "Kills", 200

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`; the kills of a training have the same end."""
        number, chain = len(done), int(max((outcome.facts["chain"] for outcome in done), default=-1)) + 1
        while number < count:
            draw, training = random.Random(f"kills {chain}"), place.training
            with place.temporary() as folder:
                out, cache, moments = folder / "run", folder / "cache", list[float]()
                while len(moments) < min(_CHAIN, count - number):
                    moment = draw.uniform(0.0, 1.0) * training.seconds
                    ended = place.train(training.continue_words(out), cache, kill_after=moment)
                    if not ended.killed:
                        break
                    moments.append(moment)
                else:
                    ended = place.train(training.continue_words(out), cache)
                wrong = ended.problem or (ended.text[-500:] if ended.code else training.difference(out))
            for moment in moments:
                yield Outcome(number, "until the kill", moment, wrong, {"chain": chain, "identical": not wrong})
                number += 1
            chain += 1
