"""What a fetch may do: limits, politeness, policies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from curation.fetch.content_usage import USAGE_CATEGORIES
from curation.fetch.optout import OPTOUT_DIRECTIVES, product_name

USER_AGENT = "open-insighttok/1 (offline image curation; with img2dataset)"
"""Says honestly who asks. Without the software's version: an upgrade must not undo a dataset."""

HashPolicy = Literal["drop", "flag", "keep"]
"""What is done with bytes that are not those the list expects."""

MACHINE_SETTINGS = frozenset(
    {"threads", "host_connections", "host_requests_per_s", "keep_alive", "dns_ttl_s"}
)
"""Settings that say how a worker works, not what it fetches: they may differ from run to run."""


_MOST_QUEUE_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchConfig:
    """Settings of the fetch stage; all but MACHINE_SETTINGS may change what is fetched."""

    threads: int = 32
    """Downloads at a time in one worker."""
    host_connections: int = 8
    """Most requests at a time from one worker to one host (name and port)."""
    host_requests_per_s: float | None = None
    """Most requests a second from one worker to one host; None for no limit but the above."""
    keep_alive: bool = True
    """Use a connection again for the next request to its host."""
    dns_ttl_s: float = 300.0
    """How long a worker uses the addresses of a name, seconds."""
    deadline_s: float = 30.0
    """Total time for one URL: names, connections, TLS, redirects, body, retries and pauses. Two
    waits do not count: for a turn at the host, `turn_patience_s` at most, and for its robots.txt.
    """
    max_bytes: int = 32 * 2**20
    """Largest body, bytes. A worker may hold `2 * threads` bodies at once."""
    min_bytes_per_s: float = 1024.0
    """Least average rate of a body, bytes a second; 0 for none."""
    slow_after_s: float = 5.0
    """Seconds of a body's time before that rate counts."""
    max_redirects: int = 5
    """Most redirects followed in one attempt."""
    retries: int = 2
    """Further attempts after a transient failure, within the deadline."""
    backoff_s: float = 0.5
    """Longest pause before the first retry, seconds; doubled for each further one. The jitter takes
    a part of it."""
    allow_private_network: bool = False
    """Permit loopback, private and carrier-grade NAT addresses (tests, intranets). Link-local,
    cloud metadata, multicast and reserved addresses stay refused."""
    user_agent: str = USER_AGENT
    """User-Agent header; its product name also selects groups of robots.txt and scoped
    X-Robots-Tag directives."""
    respect_robots_txt: bool = True
    """Ask each host's robots.txt (RFC 9309) first, and fetch only what it allows. A crawler that
    does not is refused by more hosts, and by some for good."""
    optout_directives: tuple[str, ...] = OPTOUT_DIRECTIVES
    """X-Robots-Tag directives that refuse an image."""
    usage_categories: tuple[str, ...] = USAGE_CATEGORIES
    """Content-Usage categories that refuse an image where they are `n`."""
    hash_policy: HashPolicy = "drop"
    """On bytes that differ from sha256_expected: drop filters the row; flag stores the image and
    says so in `flags`; keep stores it. Both hashes stay on the row in every case."""
    max_side: int | None = None
    """Longest side of a stored image, px: larger ones are shrunk and, like those that EXIF turns,
    encoded again, so that every stored image is its frame. None stores the bytes as received."""
    quality: int = 95
    """JPEG quality of images that are encoded again."""
    shard_deadline_s: float | None = 1800.0
    """When a shard closes, seconds after it began: URLs not begun are put off to a further pass,
    behind the other shards. Half an hour is twice what 1,000 URLs take on 32 threads if each of
    them hangs for its 30 s, so that it closes no shard but one that a slow host holds. None: never.
    """
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Caps on the pixels that an image header announces."""

    @property
    def turn_patience_s(self) -> float:
        """Longest wait for a turn at a host, seconds. Under a rate it is long enough for all
        threads to have theirs at one host: our own limit is no failure of a row."""
        # Every thread may queue at one host, and each holder of a turn take its whole deadline.
        by_connections = self.deadline_s * math.ceil(self.threads / self.host_connections)
        if self.host_requests_per_s is None:
            return by_connections
        return by_connections + min(self.threads / self.host_requests_per_s, _MOST_QUEUE_S)

    @property
    def hung_after_s(self) -> float:
        """How long a worker may be silent before it is taken for hung, seconds: far longer than a
        shard that closes at its deadline needs, its writing included."""
        if self.shard_deadline_s is None:
            return math.inf
        return 2 * (self.shard_deadline_s + self.turn_patience_s) + 600

    def __post_init__(self) -> None:
        _check("threads", self.threads, 1, 1024)
        _check("host_connections", self.host_connections, 1, 1024)
        if self.host_requests_per_s is not None:
            _check("host_requests_per_s", self.host_requests_per_s, 0.001, 10_000)
        _check("dns_ttl_s", self.dns_ttl_s, 0, 86_400)
        _check("deadline_s", self.deadline_s, 0.01, 3600)
        _check("min_bytes_per_s", self.min_bytes_per_s, 0, 2**30)
        _check("slow_after_s", self.slow_after_s, 0, 3600)
        _check("max_bytes", self.max_bytes, 1, 2**31)
        _check("max_redirects", self.max_redirects, 0, 50)
        _check("retries", self.retries, 0, 20)
        _check("backoff_s", self.backoff_s, 0, 60)
        _check("quality", self.quality, 1, 100)
        if self.max_side is not None:
            _check("max_side", self.max_side, 16, 32_768)
        if self.shard_deadline_s is not None:
            _check("shard_deadline_s", self.shard_deadline_s, 0.01, 10**7)
        if self.hash_policy not in get_args(HashPolicy):
            raise UsageError(
                f"hash_policy is {self.hash_policy!r}; choose 'drop', 'flag' or 'keep'"
            )
        is_sendable = self.user_agent.isascii() and self.user_agent.isprintable()
        if not is_sendable or not product_name(self.user_agent):
            raise UsageError(
                f"user_agent is {self.user_agent!r}; "
                "give one line of ASCII that begins with a product name, such as name/1 (contact)"
            )

    @property
    def for_results(self) -> FetchConfig:
        """The same with the machine's settings at their defaults: what decides results."""
        defaults: dict[str, Any] = {
            one.name: one.default for one in fields(self) if one.name in MACHINE_SETTINGS
        }
        return replace(self, **defaults)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}; choose a value in [{least}, {most}]")
