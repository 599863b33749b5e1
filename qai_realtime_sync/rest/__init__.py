"""The gateway's REST calls: create a session, refresh its token, end it."""

from qai_realtime_sync.rest.answers import ResponseInfo, canonical_code
from qai_realtime_sync.rest.client import DEFAULT_BASE_URL, RestClient

__all__ = ["DEFAULT_BASE_URL", "ResponseInfo", "RestClient", "canonical_code"]
