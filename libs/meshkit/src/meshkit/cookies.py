"""A browser's session: the cookies and the header that Envoy reads and the session service sets.

`__Host-` and `__Secure-` bind a cookie to TLS, the first also to this exact host, so that no other
host can set one (RFC 6265bis §4.1.3).
"""

from __future__ import annotations

# The JWT; scripts can't read it.
TOKEN_COOKIE = "__Host-coinmesh-token"  # noqa: S105 (a name)
# The login used to get the next JWT; sent to LOGIN_PATH only, scripts can't read it.
LOGIN_COOKIE = "__Secure-coinmesh-login"
LOGIN_PATH = "/v1/session"
# The CSRF token; the site's own scripts read it and repeat it in CSRF_HEADER.
CSRF_COOKIE = "__Host-coinmesh-csrf"
CSRF_HEADER = "x-csrf-token"
# Its length in characters: 32 random bytes in base64url.
CSRF_LENGTH = 43


def cookie(name: str, value: str, seconds: int, *, readable: bool = False) -> str:
    """Return a Set-Cookie header; 0 seconds deletes the cookie."""
    path = LOGIN_PATH if name == LOGIN_COOKIE else "/"
    hidden = "" if readable else "; HttpOnly"
    return f"{name}={value}; Max-Age={seconds}; Path={path}; Secure; SameSite=Strict{hidden}"


def read(header: str, name: str) -> str | None:
    """Return the value of a cookie in a Cookie header; None if it is missing."""
    for part in header.split(";"):
        key, equals, value = part.strip().partition("=")
        if equals and key == name:
            return value
    return None
