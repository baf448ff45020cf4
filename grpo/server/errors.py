"""Errors that an API answers with. A facade gives each its own shape on the wire."""


class ApiError(Exception):
    """An answer other than success: HTTP status, stable code, message, and the field that is to blame."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code


class Invalid(ApiError):
    """The request cannot be carried out as it stands; ``param`` names the field."""


class Unauthorized(ApiError):
    """No key, or not ours."""

    status, code, kind = 401, "invalid_api_key", "authentication_error"


class Forbidden(ApiError):
    """The request comes from where none may come from."""

    status, code, kind = 403, "forbidden", "permission_error"


class NotFound(ApiError):
    """No object with this id."""

    status, code = 404, "not_found"


class Conflict(ApiError):
    """The object's state does not allow it; repeating the request will not help."""

    status, code, kind = 409, "conflict", "conflict_error"


class TooLarge(ApiError):
    """More bytes, parts or levels than allowed."""

    status, code = 413, "request_too_large"


class Unavailable(ApiError):
    """The server cannot do it now: disk full, an engine that does not start. Repeating may help."""

    status, code, kind = 503, "unavailable", "server_error"


class NotImplementedHere(ApiError):
    """An operation of the API that this server does not have."""

    status, code = 501, "unknown_operation"
