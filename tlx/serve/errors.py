"""Errors as OpenAI's interface writes them."""

from typing import Any

BAD_REQUEST = 400
UNAUTHORIZED = 401
FORBIDDEN = 403
NOT_FOUND = 404
TOO_LARGE = 413
TOO_MANY = 429
INTERNAL = 500

_TYPES = {
    UNAUTHORIZED: "authentication_error",
    FORBIDDEN: "permission_error",
    TOO_MANY: "rate_limit_error",
    INTERNAL: "server_error",
}


class RequestError(Exception):
    """A request that is not answered."""

    def __init__(
        self, message: str, status: int = BAD_REQUEST, param: str | None = None, code: str | None = None
    ):
        """Describe why.

        Args:
            message: One line for the caller.
            status: HTTP status.
            param: Key of the body that is at fault.
            code: OpenAI's word for the fault, where it has one.
        """
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return error_body(str(self), self.status, self.param, self.code)


def error_body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the JSON body of an error.

    Args:
        message: One line for the caller.
        status: HTTP status.
        param: Key of the body that is at fault.
        code: OpenAI's word for the fault.

    Returns:
        The body.
    """
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
