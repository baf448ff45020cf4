"""Errors as AWS names them."""

from grpo.server.errors import ApiError, Conflict, Forbidden, NotFound, TooLarge, Unauthorized, Unavailable


class AwsError(Exception):
    """An answer other than success: the code by which a service's model knows it, and its HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> AwsError:
    """The request cannot be carried out as it stands."""
    return AwsError("ValidationException", message)


def unknown_operation(service: str, name: str) -> AwsError:
    """What this server does not have, by its name."""
    return AwsError("NotImplemented", f"{service}:{name} is not an operation of this server", 501)


def of_api(error: ApiError) -> AwsError:
    """An error of the server's own parts, in Bedrock's terms."""
    codes: dict[type[ApiError], tuple[str, int]] = {
        NotFound: ("ResourceNotFoundException", 404),
        Conflict: ("ConflictException", 400),
        Forbidden: ("AccessDeniedException", 403),
        Unauthorized: ("UnrecognizedClientException", 403),
        TooLarge: ("RequestEntityTooLargeException", 413),
        Unavailable: ("ServiceUnavailableException", 503),
    }
    code, status = codes.get(type(error), ("ValidationException", error.status))
    return AwsError(code, f"{error.param}: {error}" if error.param else str(error), status)
