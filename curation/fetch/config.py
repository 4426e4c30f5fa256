"""What a fetch may do: limits, politeness, policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from curation.fetch.optout import OPTOUT_DIRECTIVES

USER_AGENT = "open-insighttok/1 (offline image curation; with img2dataset)"
"""Says honestly who asks. Without the software's version: an upgrade must not undo a dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchConfig:
    """Settings of the fetch stage; all but `threads` may change what is fetched."""

    threads: int = 32
    """Downloads at a time in one worker."""
    deadline_s: float = 30.0
    """Total time for one URL: names, connections, TLS, redirects, body, retries and pauses."""
    max_bytes: int = 32 * 2**20
    """Largest body, bytes. A worker may hold `2 * threads` bodies at once."""
    max_redirects: int = 5
    """Most redirects followed in one attempt."""
    retries: int = 2
    """Further attempts after a transient failure, within the deadline."""
    backoff_s: float = 0.5
    """Pause before the first retry, seconds, before jitter; doubled for each further one."""
    allow_private_network: bool = False
    """Permit loopback, private and carrier-grade NAT addresses (tests, intranets). Link-local,
    cloud metadata, multicast and reserved addresses stay refused."""
    user_agent: str = USER_AGENT
    """User-Agent header; its product name also selects scoped X-Robots-Tag directives."""
    optout_directives: tuple[str, ...] = OPTOUT_DIRECTIVES
    """X-Robots-Tag directives that refuse an image."""
    hash_policy: Literal["drop", "keep"] = "drop"
    """On bytes that differ from sha256_expected: drop filters the row; keep stores the image. Both
    hashes stay on the row either way."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Caps on the pixels that an image header announces."""

    def __post_init__(self) -> None:
        _check("threads", self.threads, 1, 1024)
        _check("deadline_s", self.deadline_s, 0.01, 3600)
        _check("max_bytes", self.max_bytes, 1, 2**31)
        _check("max_redirects", self.max_redirects, 0, 50)
        _check("retries", self.retries, 0, 20)
        _check("backoff_s", self.backoff_s, 0, 60)
        if self.hash_policy not in ("drop", "keep"):
            raise UsageError(f"hash_policy is {self.hash_policy!r}; choose 'drop' or 'keep'")
        if not self.user_agent.strip() or not self.user_agent.isprintable():
            raise UsageError(f"user_agent is {self.user_agent!r}; give one line of printable text")


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}; choose a value in [{least}, {most}]")
