"""Pictures that belong to a page, such as those of a wall: served by their content's hash, or inside the page."""

import base64
import hashlib
import io
from pathlib import Path

from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["ROUTE", "data_url", "jpeg", "picture_url"]

_pictures = dict[str, bytes]()  # in memory, so that no folder is served; only pages add to it, when they are made


def picture_url(picture: Image.Image | Path, quality: int = 82) -> str:
    """Serve a picture for as long as the process lives; for what visitors bring, see `controls.run_folder`.

    It is encoded as JPEG; the path of a JPEG is taken as it is. The address is relative to the page: right behind a
    proxy with a prefix, too.
    """
    content = jpeg(picture, quality, optimize=True)
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.jpg"
    _pictures[name] = content
    return f"pictures/{name}"


def data_url(picture: Image.Image | Path, quality: int = 84) -> str:
    """Put a picture, as in `picture_url`, inside the page: an address that holds its bytes, for what is seen once."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(picture, quality)).decode()}"


def jpeg(picture: Image.Image | Path, quality: int, *, optimize: bool = False) -> bytes:
    """Encode a picture as JPEG; the path of a JPEG is taken as it is."""
    if isinstance(picture, Path):
        return picture.read_bytes()
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality, optimize=optimize)
    return file.getvalue()


def _answer(request: Request) -> Response:
    content = _pictures.get(request.path_params["name"])
    if content is None:
        return PlainTextResponse("There is no such picture.", 404)
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "public, max-age=31536000, immutable"})


ROUTE = Route("/pictures/{name}", _answer)
