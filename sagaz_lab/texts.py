"""Texts as they are shown and kept: without credentials, and without what a terminal would obey."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
"""What is shown and kept in the place of a credential."""

_SECRET_WORDS = frozenset(
    ("bearer", "credential", "credentials", "jwt", "pass", "passphrase", "passwd", "passwort", "password", "pw", "pwd",
     "secret", "secrets", "sig", "signature", "token")
)  # fmt: skip
_LONG_ENOUGH_TO_MISSPELL = ("credentials", "passphrase", "passwd", "password", "secret", "token")
_NEAR = 0.85
_TELLING = 4
_KINDS_OF_KEY = "(access|account|api|auth|encryption|master|private|secret|shared|signing|subscription)"
_SECRET_KEY = re.compile(rf"(^|_){_KINDS_OF_KEY}_?(access_?)?keys?(_|$)")

_HARMLESS_VALUE = re.compile(r"\d+(\.\d+)?|true|false|yes|no|none|required|optional", re.IGNORECASE)
# Each match begins where a run of its letters does, so that a long run is looked through once.
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z0-9+.-]+)://(?P<rest>[^\s\"'`<>]+)")
_NEXT_ADDRESS = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_NAME = r"(?<![\w-])(?P<name>[\w-]+)"
_PAIR = re.compile(rf"""{_NAME}(?:(?:\\*["'])?\s*=|\\*["']\s*:)\s*""")
"""What stands before the value in `password="x"`, `?password=x` and `{'password': 'x'}`."""
_BARE_PAIR = re.compile(rf"{_NAME}:[ \t]*(?:[\w.\[\]| ]{{1,60}}=[ \t]*)?(?!//|:)")
"""The same for `password: x` and `password: str = "x"`."""
_TUPLE = re.compile(rf"""(?<=["']){_NAME}["'],\s*(?=[bBrRuU]{{0,2}}["'])""")
"""The same for `('password', 'x')`."""
_VALUE = re.compile(  # a text may be cut off within quotes; in a text within a text each quote has a backslash
    r"""[bru]{0,2}"(?:[^"\\]|\\.)*(?:"|\Z)|[bru]{0,2}'(?:[^'\\]|\\.)*(?:'|\Z)|\\+["'][^"'\\]*(?:\\+["']|\Z)
        |[^\s,;&)\]}"']+""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_TUPLE_ENDS = re.compile(r"\s*\)")
_HEADER = re.compile(
    r"""(?<![\w-])(?P<name>(?:proxy-)?authorization|(?:set-)?cookie)
        (?P<mark>\\*["']?\s*[:=]\s*|["'],\s*)(?P<value>[b]?"[^"]*"|[b]?'[^']*'|[^\s"'*][^\n"']*)""",
    re.IGNORECASE | re.VERBOSE,
)
_SCHEME = re.compile(r"(?<![\w-])(?P<name>bearer|basic)(?P<mark>\s+)(?P<value>[\w.~+/-]+=*)", re.IGNORECASE)
_NO_PAIR = re.compile(
    r"(Invalid|Expired|Missing|Unknown|Bad|No)[A-Z]\w*|\w*(Error|Exception|Warning)|pass|sig|signature"
)
_NO_VALUE = re.compile(
    r"str|bytes|int|bool|none|any|object|secretstr|secretbytes|optional|required|missing", re.IGNORECASE
)
FILLED_IN = re.compile(r"\0\d+\0")
_COLOUR = re.compile(r"\\x1b\[([0-9;]*)m")
_CONTROLS = {*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_ESCAPED = {number: f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" for number in _CONTROLS}
_ESCAPED_IN_LINES = {number: text for number, text in _ESCAPED.items() if chr(number) not in "\n\t"}


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether a name says that its value is a credential; slips of the pen such as `pasword` count too."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    if _SECRET_KEY.search(plain):
        return True
    words = [word for word in re.split(r"[^a-z]+", plain) if word]
    return any(
        word in _SECRET_WORDS or (len(word) > 3 and get_close_matches(word, _LONG_ENOUGH_TO_MISSPELL, 1, _NEAR))
        for word in words
        if word != "tokens"  # which are counted
    )


def masked(text: str, known: Iterable[str] = (), *, in_code: bool = False) -> str:
    """The text without what looks like a credential, and without the `known` ones: for errors, reports and logs.

    `in_code`: the text is a comment or a text of code, in which `token: a word` says what a token is.
    """
    if "://" in text:
        text = _ADDRESS.sub(lambda found: _masked_address(found["scheme"], found["rest"]), text)
    if "=" in text or ":" in text or "'," in text or '",' in text:
        text = _HEADER.sub(lambda found: f"{found['name']}{found['mark']}{_hidden(found['value'])}", text)
        text = _masked_pairs(_PAIR, text)
        text = _masked_pairs(_TUPLE, text, lambda _, value: _TUPLE_ENDS.match(value.string, value.end()) is not None)
        text = _masked_pairs(_BARE_PAIR, text, _tells_in_code if in_code else _tells)
    if "earer" in text or "BEARER" in text or "asic" in text:
        text = _SCHEME.sub(_masked_scheme, text)
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _TELLING:  # a shorter one would be found in words that have nothing to do with it
            for shown in (secret, repr(secret)[1:-1], quote(secret, safe="")):
                text = text.replace(shown, HIDDEN)
    return text


def told_by(error: BaseException) -> Iterator[str]:
    """What a traceback of the error tells besides code: its text and notes, and those of all that it stands for."""
    seen: set[int] = set()
    left: list[BaseException] = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield from _own_texts(one)
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def _own_texts(error: BaseException) -> list[str]:
    texts = []
    with suppress(BaseException):  # `__str__` is anybody's
        texts += [str(error)]
    with suppress(BaseException):
        texts += map(str, getattr(error, "__notes__", ()))
    return texts


def reveals(error: BaseException, known: Collection[str] = ()) -> bool:
    """Whether a traceback of the error tells a credential."""
    return any(masked(text, known) != text for text in told_by(error))


def masked_address(address: str) -> str:
    """An address without its credentials: `redis://user:***@host`, `redis://***@host`, `...?password=***`."""
    scheme, mark, rest = address.partition("://")
    return _masked_address(scheme, rest) if mark else masked(address)


def secrets_of_address(address: str) -> set[str]:
    """The credentials in an address, or in several after one another, as they are written and decoded."""
    found = set()
    for one in _NEXT_ADDRESS.split(address):
        scheme, mark, rest = one.partition("://")
        if not mark:
            pairs = (_VALUE.match(one, pair.end()) for pair in _PAIR.finditer(one) if is_secret(pair["name"]))
            found |= {value[0].strip("\"'") for value in pairs if value is not None}
            continue
        user, _, password = rest.rpartition("@")[0].partition(":")
        found.add(password or user)
        options = [pair.partition("=") for pair in rest.partition("?")[2].split("&")]
        found |= {value for name, _, value in options if not _is_shown(scheme, name, value)}
    return {text for one in found if one for text in (one, unquote(one), unquote_plus(one))}


def _masked_address(scheme: str, rest: str) -> str:
    if "," in rest and len(several := _NEXT_ADDRESS.split(f"{scheme}://{rest}")) > 1:
        return ",".join(map(masked_address, several))
    before, at, host = rest.rpartition("@")
    user, _, password = before.partition(":")
    if at and not _is_filled_in(password or user):
        # Without a password the name is the credential: redis://TOKEN@host, https://TOKEN:@host.
        rest = f"{f'{user}:' if password else ''}{HIDDEN}@{host}"
    place, mark, query = rest.partition("?")
    if mark:
        pairs = [pair.partition("=") for pair in query.split("&")]
        shown = (f"{name}{is_}{value if _is_shown(scheme, name, value) else HIDDEN}" for name, is_, value in pairs)
        rest = f"{place}?{'&'.join(shown)}"
    return f"{scheme}://{rest}"


def _is_shown(scheme: str, name: str, value: str) -> bool:
    """Of a broker's or a store's options only numbers and flags are shown: the name may be misspelt in any way."""
    if not value or _is_filled_in(value):
        return True
    if is_secret(unquote(name)):
        return False
    return scheme.lower() in ("http", "https") or _HARMLESS_VALUE.fullmatch(value) is not None


def _is_filled_in(value: str) -> bool:
    """Whether it is made of `FILLED_IN` alone, which stand for what a template has in its place later."""
    return "\0" in value and not FILLED_IN.sub("", value)


def _masked_pairs(
    pattern: re.Pattern[str], text: str, tells: Callable[[str, re.Match[str]], bool] = lambda *_: True
) -> str:
    """The text with `***` for each value that stands behind the name of a credential, also within another value."""
    parts, done, at = [], 0, 0
    while (found := pattern.search(text, at)) is not None:
        name, at = found["name"], found.end()
        if is_secret(name) and (value := _VALUE.match(text, at)) is not None and tells(name, value):
            parts += [text[done:at], _hidden(value[0])]
            done = at = value.end()
    return "".join([*parts, text[done:]])


def _tells(name: str, value: re.Match[str]) -> bool:
    """The name may as well be that of an error's class, and the value that of a type."""
    return not (_NO_PAIR.fullmatch(name) or _NO_VALUE.fullmatch(value[0]))


def _tells_in_code(name: str, value: re.Match[str]) -> bool:
    return _tells(name, value) and (value[0][-1] in "\"'" or re.search(r"\d", value[0]) is not None)


def _masked_scheme(found: re.Match[str]) -> str:
    """A word after it says something of the scheme; a credential has digits or capitals within it."""
    tells = re.search(r"\d|=|[a-z][A-Z]", found["value"])
    return f"{found['name']}{found['mark']}{HIDDEN}" if tells else found[0]


def _hidden(value: str) -> str:
    if _is_filled_in(value):
        return value
    if value[-1] not in "\"'":
        return HIDDEN
    end = len(value) - len(value[:-1].rstrip("\\")) if value[0] == "\\" else 1
    return f"{value[-end:]}{HIDDEN}{value[-end:]}"


def printable(text: str, *, lines: bool = False, colours: bool = False) -> str:
    """The text with control characters written as escapes, such as `\\x1b`.

    Names and events come from outside: a terminal is not to obey what is in them. `lines`: line ends and tabs stay;
    `colours`: what sets a terminal's colours stays too.
    """
    if text.isprintable():
        return text
    escaped = text.translate(_ESCAPED_IN_LINES if lines else _ESCAPED)
    return _COLOUR.sub("\x1b[\\1m", escaped) if colours else escaped


class SafeFilter(logging.Filter):
    """Masks credentials and escapes control characters in a record and its traceback, before any handler has it."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = _safe(record.getMessage()), None
            if record.exc_info and not record.exc_text:
                record.exc_text = _safe(logging.Formatter().formatException(record.exc_info))
                if record.exc_info[1] is not None and reveals(record.exc_info[1]):
                    record.exc_info = None  # a handler may write it in its own way
        except Exception:  # noqa: BLE001  what is logged has a `repr` that fails, and the handlers tell of that
            return True
        return True


def _safe(text: str) -> str:
    return printable(masked(text), lines=True)


_SAFE = SafeFilter()


def logger_of(name: str) -> logging.Logger:
    """The logger of a module, whose records are safe to print. A filter holds for one logger, not for those below."""
    logger = logging.getLogger(name)
    logger.addFilter(_SAFE)
    return logger


logger_of("sagaz_lab")
