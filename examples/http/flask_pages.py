"""A Flask application whose public pages are cached, and whose private ones are not.

Run it with `gunicorn flask_pages:app`, or as a program, which asks it a few times.
"""

from flask import Flask, Response, make_response

from cachekit import IntelligentCache, MemoryCache
from cachekit.http import WSGICache

cache = IntelligentCache(MemoryCache(max_bytes=100 << 20), file_cache=None)
rendered: list[str] = []


def news() -> Response:
    rendered.append("news")
    response = make_response("the news")
    response.cache_control.max_age = 60
    response.add_etag()
    return response


def account() -> Response:
    rendered.append("account")
    response = make_response("your account")
    response.cache_control.max_age = 60
    response.set_cookie("session", "of one user")
    return response


app = Flask(__name__)
app.add_url_rule("/news", view_func=news)
app.add_url_rule("/account", view_func=account)
app.wsgi_app = WSGICache(app.wsgi_app, cache)  # type: ignore[method-assign, unused-ignore]


def main() -> None:
    for path in ("/news", "/account"):
        for _ in range(3):
            answer = app.test_client().get(path)
        print(path, answer.headers["Cache-Status"].partition("; ttl")[0])
    print(f"6 requests, rendered {len(rendered)} times")


if __name__ == "__main__":
    main()
