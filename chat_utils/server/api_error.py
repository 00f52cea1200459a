"""The error of a request that is not answered, in OpenAI's form."""


class ApiError(Exception):
    """A request that is not answered: HTTP status, and what OpenAI's error form says about it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = {429: "rate_limit_error", 500: "server_error"}.get(status, "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
