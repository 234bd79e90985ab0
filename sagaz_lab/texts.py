"""Makes texts safe to show and store: masks credentials and escapes control characters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
"""Replaces a credential."""

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
# Each match starts at the beginning of a run of letters, so that a long run is scanned once.
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z0-9+.-]+)://(?P<rest>[^\s\"'`<>]+)")
_NEXT_ADDRESS = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_NAME = r"(?<![\w-])(?P<name>[\w-]+)"
_PAIR = re.compile(rf"""{_NAME}(?:(?:\\*["'])?\s*=>?|\\*["']\s*:)\s*""")
"""The part before the value in `password="x"`, `?password=x` and `{'password': 'x'}`."""
_BARE_PAIR = re.compile(rf"{_NAME}:[ \t]*(?:[\w.\[\]| ]{{1,60}}=[ \t]*)?(?!//|:)")
"""The same for `password: x` and `password: str = "x"`."""
_TUPLE = re.compile(rf"""(?<=["']){_NAME}["'],\s*(?=[bBrRuU]{{0,2}}["']|[\w.]*[(\[{{])""")
"""The same for `('password', 'x')`."""
_FLAG = re.compile(r"""(?<![\w-])--?(?P<name>[A-Za-z][\w-]*)(?P<comma>["'],)?\s++(?!-|=)(?=\S)""")
"""The same for `--password x` and `'--password', 'x'`."""
_QUOTED_FLAG = re.compile(
    r"""(?<!\\["'])(?<=(["']))(?P<name>--?[A-Za-z][\w-]*)=(?P<value>(?:(?!\1)[^\\\n]|\\.)+)(?=\1)"""
)
"""`'--password=x y'`, whose value ends with the quote."""
_BLOCK = re.compile(rf"{_NAME}:[ \t]*+(?:[!&][^\s|>]*+[ \t]*+)?(?:[|>][-+\d]*+)?[ \t]*+\r?\n(?=[ \t-])")
"""The part before a value on the next lines: `password:` and `password: |`."""
_QUOTED = r"""[bru]{0,2}"(?:[^"\\]|\\.)*(?:"|\Z)|[bru]{0,2}'(?:[^'\\]|\\.)*(?:'|\Z)"""
_IN_TEXT = r"""\\+["'][^"'\\]*(?:\\+["']|\Z)"""
_VALUE = re.compile(  # a string may be cut off within quotes; in a nested string each quote has a backslash
    rf"""{_QUOTED}|{_IN_TEXT}|(?:[!&][\w!:/.-]*[ \t]+)?(?:(?P<opens>[\w.]*[(\[{{])|[^\s,;&)\]}}"']+)""",
    re.IGNORECASE | re.DOTALL,
)
_IN_BRACKETS = re.compile(
    rf"""(?<!\w)(?:{_QUOTED})|(?<!\\){_IN_TEXT}|\\.|(?P<open>[(\[{{]+)|(?P<close>[)\]}}]+)""", re.IGNORECASE | re.DOTALL
)
_GOES_ON = re.compile(r"[\w.]*[(\[{]")
_WORD = re.compile(r"""[^\s"'`]+""")
_PROSE = re.compile(
    r"(a|an|and|are|as|by|can|cannot|does|expected|flag|for|from|has|if|in|is|must|needs|not|of|on|option|or|requires"
    r"|the|to|was|with)[.,:;)]*"
)
_TUPLE_ENDS = re.compile(r"\s*\)")
_HEADER = re.compile(
    r"""(?<![\w-])(?P<name>(?:proxy-)?authorization|(?:set-)?cookie)
        (?P<mark>\\*["']?\s*[:=]\s*|["'],\s*)(?P<value>[b]?"[^"]*"|[b]?'[^']*'|(?![\w.]*[(\[{])[^\s"'*][^\n"']*)""",
    re.IGNORECASE | re.VERBOSE,
)
_SCHEME = re.compile(r"(?<![\w-])(?P<name>bearer|basic)(?P<mark>\s+)(?P<value>[\w.~+/-]+=*)", re.IGNORECASE)
_NO_PAIR = re.compile(
    r"(Invalid|Expired|Missing|Unknown|Bad|No)[A-Z]\w*|\w*(Error|Exception|Warning)|pass|sig|signature"
)
_NO_VALUE = re.compile(
    r"str|bytes|int|bool|none|any|object|secretstr|secretbytes|optional(\[\w+\])?|required|missing|[|>][-+\d]*",
    re.IGNORECASE,
)
_SECRET_IN_BRACKETS = ("auth", "authorization", "cookie", "proxy-authorization", "set-cookie")
_LITERAL = re.compile(r"""\d|["']""")
_BLANK = re.compile(r"[ \t]*+(?:\|[ \t]++)*+")  # including the margin of an exception group's traceback
_CODE = re.compile(r"\s*(async|case|class|def|elif|else|except|for|if|match|return|while|with)\b")
FILLED_IN = re.compile(r"\0\d+\0")
_LONGEST = 20_000
_COLOUR = re.compile(r"\\x1b\[([0-9;]*)m")
_CONTROLS = {*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_ESCAPED = {number: f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" for number in _CONTROLS}
_ESCAPED_IN_LINES = {number: text for number, text in _ESCAPED.items() if chr(number) not in "\n\t"}


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether a name denotes a credential; misspellings such as `pasword` count too."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    if _SECRET_KEY.search(plain):
        return True
    words = [word for word in re.split(r"[^a-z]+", plain) if word]
    return any(
        word in _SECRET_WORDS or (len(word) > 3 and get_close_matches(word, _LONG_ENOUGH_TO_MISSPELL, 1, _NEAR))
        for word in words
        if word != "tokens"  # a number of tokens, not a credential
    )


def masked(text: str, known: Iterable[str] = (), *, in_code: bool = False) -> str:
    """The text with `known` and probable credentials masked, for errors, reports and logs.

    `in_code`: the text is a comment or a string in code, in which `token: a word` explains a token.
    """
    if "://" in text:
        text = _ADDRESS.sub(lambda found: _masked_address(found["scheme"], found["rest"]), text)
    if "-" in text:
        text = _QUOTED_FLAG.sub(_masked_quoted_flag, text)
        text = _masked_flags(text, in_code=in_code)
    if "=" in text or ":" in text or "'," in text or '",' in text:
        text = _HEADER.sub(lambda found: f"{found['name']}{found['mark']}{_hidden(found['value'])}", text)
        text = _masked_pairs(_PAIR, text, _tells)
        text = _masked_pairs(_TUPLE, text, _tells_in_tuple)
        text = _masked_blocks(text, in_code=in_code) if "\n" in text else text
        text = _masked_pairs(_BARE_PAIR, text, _tells_in_code if in_code else _tells_bare, _may_be_bare)
    if "earer" in text or "BEARER" in text or "asic" in text:
        text = _SCHEME.sub(_masked_scheme, text)
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _TELLING:  # a shorter one would match unrelated words
            for shown in (secret, repr(secret)[1:-1], quote(secret, safe="")):
                text = text.replace(shown, HIDDEN)
    return text


def told_by(error: BaseException) -> Iterator[str]:
    """The texts in a traceback besides code: text and notes of the error, its causes, contexts and members."""
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
    with suppress(BaseException):  # `__str__` may raise anything
        texts += [str(error)]
    with suppress(BaseException):
        texts += map(str, getattr(error, "__notes__", ()))
    return texts


def reveals(error: BaseException, known: Collection[str] = ()) -> bool:
    """Whether a traceback of the error reveals a credential."""
    return any(masked(text, known) != text for text in told_by(error))


def masked_address(address: str) -> str:
    """An address without its credentials: `redis://user:***@host`, `redis://***@host`, `...?password=***`."""
    scheme, mark, rest = address.partition("://")
    return _masked_address(scheme, rest) if mark else masked(address)


def secrets_of_address(address: str) -> set[str]:
    """The credentials in one or more addresses, as written and URL-decoded."""
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
        # Without a password the user name is the credential: redis://TOKEN@host, https://TOKEN:@host.
        rest = f"{f'{user}:' if password else ''}{HIDDEN}@{host}"
    place, mark, query = rest.partition("?")
    if mark:
        pairs = [pair.partition("=") for pair in query.split("&")]
        shown = (f"{name}{is_}{value if _is_shown(scheme, name, value) else HIDDEN}" for name, is_, value in pairs)
        rest = f"{place}?{'&'.join(shown)}"
    return f"{scheme}://{rest}"


def _is_shown(scheme: str, name: str, value: str) -> bool:
    """Of a broker's or store's options only numbers and flags are shown, since a name may be misspelt."""
    if not value or _is_filled_in(value):
        return True
    if is_secret(unquote(name)):
        return False
    return scheme.lower() in ("http", "https") or _HARMLESS_VALUE.fullmatch(value) is not None


def _is_filled_in(value: str) -> bool:
    """Whether it consists of `FILLED_IN` only, the placeholders of a template."""
    return "\0" in value and not FILLED_IN.sub("", value)


def _masked_pairs(
    pattern: re.Pattern[str],
    text: str,
    tells: Callable[[str, int, int], bool],
    may_tell: Callable[[str], bool] = lambda _: True,
) -> str:
    """The text with `***` for each value after the name of a credential, also in nested values.

    `may_tell` checks the name alone, which avoids scanning long values in vain.
    """
    parts, done, at = [], 0, 0
    while (found := pattern.search(text, at)) is not None:
        name, at = found["name"], found.end()
        if _is_secret_here(name, text, at) and may_tell(name):
            end = _end_of_value(text, at)
            if end > at and tells(text, at, end):
                parts += [text[done:at], _hidden(text[at:end])]
                done = at = end
    return "".join([*parts, text[done:]])


def _is_secret_here(name: str, text: str, at: int) -> bool:
    """`auth="digest"` is a method, `auth=("user", "password")` a secret. The value begins at `at`."""
    return is_secret(name) or (name.lower() in _SECRET_IN_BRACKETS and _GOES_ON.match(text, at) is not None)


def _end_of_value(text: str, at: int) -> int:
    """The end of the value that begins at `at`, with brackets closed; `at` if there is none."""
    found = _VALUE.match(text, at)
    if found is None:
        return at
    end, depth = found.end(), int(found["opens"] is not None)
    while depth:
        inner = _IN_BRACKETS.search(text, end)
        if inner is None:
            return len(text)  # the value is cut off
        opened, closed = len(inner["open"] or ""), len(inner["close"] or "")
        end, depth = inner.end() - max(0, closed - depth), max(0, depth + opened - closed)
        if not depth and (more := _GOES_ON.match(text, end)) is not None:
            end, depth = more.end(), 1
    return end


def _tells(text: str, start: int, end: int) -> bool:
    return True


def _tells_in_tuple(text: str, start: int, end: int) -> bool:
    """A pair ends after its second string; a list of names continues."""
    return _TUPLE_ENDS.match(text, end) is not None or _GOES_ON.match(text, start) is not None


def _may_be_bare(name: str) -> bool:
    """False if the name may be an error class."""
    return _NO_PAIR.fullmatch(name) is None


def _tells_bare(text: str, start: int, end: int) -> bool:
    """False if the value may be the name of a type."""
    return _NO_VALUE.fullmatch(text, start, end) is None


def _tells_in_code(text: str, start: int, end: int) -> bool:
    return _tells_bare(text, start, end) and _LITERAL.search(text, start, end) is not None


def _masked_quoted_flag(found: re.Match[str]) -> str:
    return f"{found['name']}={_hidden(found['value'])}" if is_secret(found["name"]) else found[0]


def _masked_flags(text: str, *, in_code: bool) -> str:
    """The text with `***` for values of secret options, as in `--password x` and `['--password', 'x']`."""
    parts, done, at = [], 0, 0
    while (found := _FLAG.search(text, at)) is not None:
        name, at = found["name"], found.end()
        if not is_secret(name):
            continue
        word = None if found["comma"] else _WORD.match(text, at)
        end = _end_of_value(text, at) if word is None else word.end()
        is_told = end > at and not (word and _says_no_value(name, word[0]))
        if is_told and not (in_code and _LITERAL.search(text, at, end) is None):
            parts += [text[done:at], _hidden(text[at:end])]
            done = at = end
    return "".join([*parts, text[done:]])


def _says_no_value(flag: str, word: str) -> bool:
    """Whether the word is prose after the option, or a usage placeholder such as `--api-token API_TOKEN`."""
    return _PROSE.fullmatch(word) is not None or word.rstrip("])},.;:") in (flag.replace("-", "_").upper(), "TEXT")


def _masked_blocks(text: str, *, in_code: bool) -> str:
    """The text with `***` for the lines indented below the name of a credential."""
    parts, done, at = [], 0, 0
    while (found := _BLOCK.search(text, at)) is not None:
        at = found.end()
        if not (is_secret(found["name"]) and _may_be_bare(found["name"])):
            continue
        line = text.rfind("\n", 0, found.start()) + 1
        start, end = _block(text, at, _indent(text, line))
        block = text[start:end]
        is_code = _CODE.match(text, line) is not None or not block.strip(" \t\r\n^~")
        if not is_code and not (in_code and (len(block.split()) > 1 or _LITERAL.search(block) is None)):
            parts += [text[done:start], _hidden(block)]
            done = at = end
    return "".join([*parts, text[done:]])


def _block(text: str, at: int, indent: int) -> tuple[int, int]:
    """Start and end of the more deeply indented lines; list items need no deeper indent."""
    start = end = at
    while at < len(text):
        stop = text.find("\n", at) % (len(text) + 1)
        first = at + _indent(text, at)
        if first < stop and text[first] != "\r":
            if first - at < indent + (not text.startswith("- ", first)):
                break
            start, end = (first if start == end else start), stop
        at = stop + 1
    return start, end - text.endswith("\r", start, end)


def _indent(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return 0 if found is None else found.end() - at


def _masked_scheme(found: re.Match[str]) -> str:
    """A plain word after a scheme describes it; a credential contains digits or inner capitals."""
    tells = re.search(r"\d|=|[a-z][A-Z]", found["value"])
    return f"{found['name']}{found['mark']}{HIDDEN}" if tells else found[0]


def _hidden(value: str) -> str:
    if _is_filled_in(value):
        return value
    if value[-1] not in "\"'":
        return HIDDEN
    end = len(value) - len(value[:-1].rstrip("\\")) if value[0] == "\\" else 1
    return f"{value[-end:]}{HIDDEN}{value[-end:]}"


def shortened(text: str) -> str:
    """The start of a very long text, for masking: cutting the front could part a credential from its name."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... {len(text) - _LONGEST} characters left out"


def encodable(text: str) -> str:
    """The text with lone surrogates escaped, which no file, terminal or table accepts."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str, *, lines: bool = False, colours: bool = False) -> str:
    """The text with control characters escaped, such as `\\x1b`.

    Names and events come from outside and must not control a terminal. `lines` keeps line ends and tabs;
    `colours` keeps colour sequences.
    """
    if text.isprintable():
        return text
    escaped = text.translate(_ESCAPED_IN_LINES if lines else _ESCAPED)
    return _COLOUR.sub("\x1b[\\1m", escaped) if colours else escaped


class SafeFilter(logging.Filter):
    """Masks credentials and escapes control characters in a record and its traceback before any handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = _safe(record.getMessage()), None
            if record.exc_info and not record.exc_text:
                record.exc_text = _safe(logging.Formatter().formatException(record.exc_info))
                if record.exc_info[1] is not None and reveals(record.exc_info[1]):
                    record.exc_info = None  # a handler could format it itself
        except Exception:  # noqa: BLE001  a failing `repr`: the handlers report it
            return True
        return True


def _safe(text: str) -> str:
    return printable(masked(text), lines=True)


_SAFE = SafeFilter()


def logger_of(name: str) -> logging.Logger:
    """A module's logger with `SafeFilter`: filters do not apply to child loggers, so each module needs its own."""
    logger = logging.getLogger(name)
    logger.addFilter(_SAFE)
    return logger


logger_of("sagaz_lab")
