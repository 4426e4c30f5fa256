"""robots.txt of each host: fetched once, however many threads ask, and kept for a day.

What RFC 9309 says of a robots.txt that cannot be had: a status 4xx is a host without rules. With a
status 5xx, or no answer, nothing of the host may be fetched; then its rows fail with the code of
that failure, which is transient, so that they can be fetched again when the host is back.
"""

from __future__ import annotations

from collections.abc import Collection

from annotations_schema.codes import FailureCode
from curation.fetch.body import Pace, read_chunks
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Origin
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.hops import Checks, follow
from curation.fetch.network import Answer, Network
from curation.fetch.once import Made, Once
from curation.fetch.retry import Patience, until_deadline
from curation.fetch.robots import MAX_ROBOTS_BYTES, Robots, parse_robots

_MAX_REDIRECTS = 5
_RULES_TTL_S = 24 * 3600.0
_FAILURE_TTL_S = 300.0
_CAPACITY = 20_000  # tens of megabytes, of hosts without rules or of hosts with many
_RULES_OF_WEIGHT = 8
_NO_RULES = Robots()
# Read as "there is no robots.txt": RFC 9309, 2.3.1.2 and 2.3.1.3. Not 429: it asks for patience.
_UNAVAILABLE = frozenset(
    {
        FailureCode.HTTP_400,
        FailureCode.HTTP_401,
        FailureCode.HTTP_403,
        FailureCode.HTTP_404,
        FailureCode.HTTP_408,
        FailureCode.HTTP_410,
        FailureCode.HTTP_451,
        FailureCode.HTTP_4XX,
        FailureCode.HTTP_UNEXPECTED,
        FailureCode.REDIRECT_LIMIT,
        FailureCode.REDIRECT_LOOP,
        FailureCode.REDIRECT_SCHEME,
    }
)


class RobotsCache:
    """The rules of all hosts of a worker.

    Args:
        network: what robots.txt is fetched through: the same guards as everything.
        config: deadline, retries, pace.
        names: our product names, lower case.
    """

    def __init__(self, network: Network, config: FetchConfig, names: Collection[str]) -> None:
        self._network = network
        self._config = config
        self._names = names
        self._known: Once[Origin, Robots | FetchError] = Once(_CAPACITY)

    def check(self, url: str, deadline: Deadline) -> None:
        """Refuse a canonical URL that its host's robots.txt opts out.

        The first URL of a host fetches the file, under a deadline of its own; the URL's stands
        still meanwhile.

        Raises:
            FetchError: OPTOUT_ROBOTS_TXT, OPTOUT_CONTENT_USAGE; or why there is no robots.txt.
        """
        origin = Origin.of(url)
        with deadline.paused():
            robots = self._known.get(origin, lambda: self._fetch(origin))
        if isinstance(robots, FetchError):
            raise FetchError(
                robots.code, robots.detail, http_status=robots.http_status, is_final=True
            )
        robots.check(url, self._config.usage_categories)

    def _fetch(self, origin: Origin) -> Made[Robots | FetchError]:
        url = f"{origin.scheme}://{origin.authority}/robots.txt"
        deadline = Deadline(self._config.deadline_s)
        patience = Patience(self._config.retries, self._config.backoff_s)
        checks = Checks(target=lambda url, deadline: None, headers=lambda headers: None)

        def attempt() -> bytes:
            return follow(self._network, url, deadline, _MAX_REDIRECTS, checks, self._read)

        result, _ = until_deadline(attempt, url, deadline, patience)
        if isinstance(result, bytes):
            robots = parse_robots(result, self._names)
            num_rules = len(robots.access) + len(robots.usages)
            return Made(robots, _RULES_TTL_S, weight=1 + num_rules // _RULES_OF_WEIGHT)
        if result.code in _UNAVAILABLE:
            return Made(_NO_RULES, _RULES_TTL_S)
        why = FetchError(
            result.code, f"robots.txt: {result.detail}", http_status=result.http_status
        )
        return Made(why, _FAILURE_TTL_S)

    def _read(self, answer: Answer) -> bytes:
        pace = Pace(self._config.min_bytes_per_s, self._config.slow_after_s)
        data = bytearray()
        for chunk in read_chunks(answer, pace):
            data += chunk
            if len(data) >= MAX_ROBOTS_BYTES:
                break
        return bytes(data)
