"""A Django project in one file whose pages are cached in front of all middleware.

Run it with `gunicorn django_pages:application`, or as a program, which asks it a few times.
"""

from collections.abc import Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.cache import patch_cache_control, patch_vary_headers

from cachekit import IntelligentCache, MemoryCache
from cachekit.http import WSGICache

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="of the example")

cache = IntelligentCache(MemoryCache(max_bytes=100 << 20), file_cache=None)
rendered: list[str] = []


def hello(request: HttpRequest) -> HttpResponse:
    language = request.headers.get("Accept-Language", "en")
    rendered.append(language)
    response = HttpResponse("hallo" if language == "de" else "hello")
    patch_cache_control(response, public=True, max_age=60)
    patch_vary_headers(response, ["Accept-Language"])
    return response


urlpatterns = [path("hello", hello)]
application = WSGICache(get_wsgi_application(), cache)


def ask(language: str) -> str:
    """Send a request to the application, as a server does."""
    environ: dict[str, Any] = {"PATH_INFO": "/hello", "HTTP_ACCEPT_LANGUAGE": language}
    setup_testing_defaults(environ)

    def start_response(status: str, *_: object) -> Any:
        assert status == "200 OK", status

    parts: Iterable[bytes] = application(environ, start_response)
    return b"".join(parts).decode()


def main() -> None:
    answers = [ask(language) for language in ("en", "de", "en", "de", "en")]
    print(*answers)
    print(f"5 requests, rendered {len(rendered)} times")


if __name__ == "__main__":
    main()
