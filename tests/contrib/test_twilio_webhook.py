"""Twilio's requests over HTTP: signatures beside published ones, and TwiML that is XML whatever is put into it."""

from __future__ import annotations

from xml.etree import ElementTree

import hypothesis
import pytest
from hypothesis import strategies as st

from qai_realtime_sync import ConfigError
from qai_realtime_sync.contrib.twilio import is_from_twilio, signature, stream_twiml

# The example of Twilio's reference.
TOKEN, URL, SIGNED = "12345", "https://mycompany.com/myapp.php?foo=1&bar=2", "RSOYDt4T1cUTdK1PDd93/VVr8B8="
PARAMS = {"CallSid": "CA1234567890ABCDE", "Caller": "+14158675309", "Digits": "1234", "From": "+14158675309", "To": "+18005551212"}


def test_the_published_example() -> None:
    """The signature of the reference's example is made, and accepted."""
    assert signature(TOKEN, URL, PARAMS) == SIGNED
    assert is_from_twilio(TOKEN, URL, SIGNED, PARAMS)


@pytest.mark.parametrize(
    ("token", "url", "given", "params"),
    [
        ("12346", URL, SIGNED, PARAMS),
        (TOKEN, URL + "3", SIGNED, PARAMS),
        (TOKEN, URL.replace("https", "http"), SIGNED, PARAMS),
        (TOKEN, URL, SIGNED, PARAMS | {"Digits": "1235"}),
        (TOKEN, URL, SIGNED, {name: value for name, value in PARAMS.items() if name != "To"}),
        (TOKEN, URL, SIGNED, None),
        (TOKEN, URL, "", PARAMS),
        (TOKEN, URL, None, PARAMS),
        (TOKEN, URL, "ÿ\udc80", PARAMS),
        (TOKEN, "https://[", SIGNED, PARAMS),
        (TOKEN, "https://mycompany.com:99999/", SIGNED, PARAMS),
    ],
)
def test_what_does_not_fit_is_refused(token: str, url: str, given: str | None, params: dict[str, str] | None) -> None:
    """Another token, address or field, and a header that is missing or nonsense."""
    assert not is_from_twilio(token, url, given, params)


@pytest.mark.parametrize("seen", ["wss://phone.example/media", "wss://phone.example/media/", "wss://phone.example:443/media"])
@pytest.mark.parametrize("meant", ["wss://phone.example/media", "wss://phone.example/media/", "wss://phone.example:443/media"])
def test_ports_and_slashes_of_a_websocket(seen: str, meant: str) -> None:
    """Whether the usual port and a last slash are in the address that Twilio signed does not matter."""
    assert is_from_twilio(TOKEN, seen, signature(TOKEN, meant))


def test_another_port_matters() -> None:
    """Only the usual port may be left out; and over HTTP a slash makes another address."""
    assert not is_from_twilio(TOKEN, "wss://phone.example:8443/media", signature(TOKEN, "wss://phone.example/media"))
    assert not is_from_twilio(TOKEN, "https://phone.example/voice", signature(TOKEN, "https://phone.example/voice/"))


def test_forms_of_frameworks() -> None:
    """A field that comes twice counts with both values, as in the forms of Flask and Django and in dicts of lists."""
    werkzeug = pytest.importorskip("werkzeug.datastructures", reason="needs werkzeug")
    form = werkzeug.MultiDict([("To", "2"), ("To", "1"), ("From", "3")])
    assert signature(TOKEN, URL, form) == signature(TOKEN, URL, {"From": "3", "To": ["1", "2"]}) == signature(TOKEN, URL + "From3To1To2")


def test_without_a_token_nothing_is_checked() -> None:
    """An empty token is a mistake of the program, not a caller's."""
    with pytest.raises(ConfigError, match="auth token"):
        is_from_twilio("", URL, SIGNED, PARAMS)


@hypothesis.given(
    st.dictionaries(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20), st.text(max_size=100), max_size=4)
)
def test_parameters_come_back_as_they_were(parameters: dict[str, str]) -> None:
    """Whatever is in them, they are read again from the XML, or refused as no XML."""
    try:
        twiml = stream_twiml("wss://phone.example/media", parameters, name='a "name"', status_callback="https://phone.example/?a=1&b=2")
    except ConfigError as error:
        assert "control characters" in str(error)
        return
    stream = ElementTree.fromstring(twiml.encode()).find("./Connect/Stream")
    assert stream is not None
    assert stream.attrib == {
        "url": "wss://phone.example/media",
        "name": 'a "name"',
        "statusCallback": "https://phone.example/?a=1&b=2",
    }
    assert {one.attrib["name"]: one.attrib["value"] for one in stream.iterfind("Parameter")} == parameters


@pytest.mark.parametrize(
    ("url", "parameters", "words"),
    [
        ("https://phone.example/media", {}, "wss://"),
        ("wss:", {}, "wss://"),
        ("wss://phone.example/media\r\n", {}, "no space"),
        ("wss://phone.example/media?caller=1", {}, "query"),
        ("wss://phone.example/media", {"a": "b" * 499}, "500"),
        ("wss://phone.example/\x00", {}, "control characters"),
        ("wss://phone.example/media", {"a": "\x1b"}, "control characters"),
    ],
)
def test_what_twilio_would_refuse(url: str, parameters: dict[str, str], words: str) -> None:
    """It is refused where it is written, not in the middle of a call."""
    with pytest.raises(ConfigError, match=words):
        stream_twiml(url, parameters)
