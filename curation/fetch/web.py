"""What a worker keeps from shard to shard: its network, and the rules of the hosts it met."""

from __future__ import annotations

from functools import partial
from http.client import HTTPMessage

from curation.fetch.addresses import blocked_reason
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard, tls_context
from curation.fetch.deadline import Deadline
from curation.fetch.network import Network
from curation.fetch.optout import HeaderRules, product_name
from curation.fetch.resolution import AddressRule, system_resolver
from curation.fetch.robots_cache import RobotsCache


class Web:
    """The web as a worker sees it; shared by its threads and by all its shards.

    Args:
        config: limits and policies.
        guard: how names are resolved, addresses judged and TLS checked.
    """

    def __init__(self, config: FetchConfig, guard: Guard) -> None:
        # img2dataset's name too: a server that opts out of it means this downloader.
        names = (product_name(config.user_agent), "img2dataset")
        rules = HeaderRules(names, config.optout_directives, config.usage_categories)
        self.network = Network(config, guard)
        self._robots = (
            RobotsCache(self.network, config, names) if config.respect_robots_txt else None
        )
        self._rules = rules

    def check_url(self, url: str, deadline: Deadline) -> None:
        """Refuse a canonical URL that its host opts out.

        Raises:
            FetchError: an OPTOUT code; or why there is no robots.txt, so nothing may be fetched.
        """
        if self._robots is not None:
            self._robots.check(url, deadline)

    def check_headers(self, headers: HTTPMessage) -> None:
        """Refuse an answer that opts out.

        Raises:
            FetchError: an OPTOUT code; its detail is the rule.
        """
        self._rules.check(headers)

    def close(self) -> None:
        """Close idle connections."""
        self.network.close()


def open_web(config: FetchConfig) -> Web:
    """The web of a real run: system resolver, our address rule, the system's certificates."""
    return Web(config, Guard(system_resolver, address_rule(config), tls_context()))


def address_rule(config: FetchConfig) -> AddressRule:
    """Which addresses a run with this configuration may contact."""
    return partial(blocked_reason, allow_private_network=config.allow_private_network)
