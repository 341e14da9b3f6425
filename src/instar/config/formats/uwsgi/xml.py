"""XML: the elements below `<uwsgi>`."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl, InputSource

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import create_parser

from instar.config.formats.uwsgi.parsed import Pair, Source
from instar.errors import ConfigError


@dataclasses.dataclass
class _Element:
    name: str
    attributes: dict[str, str]
    line: int
    depth: int
    text: str = ""
    children: list[_Element] = dataclasses.field(default_factory=list)


class _Tree(ContentHandler):
    """Elements with their lines."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.open: list[_Element] = []
        self.root: _Element | None = None

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        line = (self._locator.getLineNumber() or 0) if self._locator else 0  # type: ignore[attr-defined]
        element = _Element(name, dict(attrs.items()), line, len(self.open))
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def endElement(self, name: str) -> None:
        self.open.pop()

    def characters(self, content: str) -> None:
        # Only the first piece of text counts, as the first child of an element does.
        if not self.open[-1].children:
            self.open[-1].text += content


def parse(source: Source) -> Iterator[Pair]:
    """`<key>value</key>`, or `<key/>` for a value of 1, below the root `<uwsgi>` or below the first `<uwsgi>` of the
    root whose id is the one that was asked for. Elements with another id are left out. No entity is expanded and no
    other document is read. Raises ConfigError.
    """
    element = _section(_read(source.text), source)
    for child in element.children:
        if source.named and child.attributes.get("id", source.section) != source.section:
            continue
        if child.name == "app":
            yield from _app(child)
        else:
            yield Pair(child.name, child.text if child.text or child.children else "1", child.line)


def _read(text: str) -> _Element:
    tree = _Tree()
    parser = create_parser(forbid_dtd=True)
    parser.setContentHandler(tree)
    document = InputSource()
    document.setCharacterStream(io.StringIO(text.replace("\0", "")))
    try:
        parser.parse(document)
    except SAXParseException as error:
        raise ConfigError(f"it is not XML: {error.getMessage()} at line {error.getLineNumber()}") from None
    except DefusedXmlException:
        raise ConfigError("it has a document type or entities, which are not read for safety; take them out") from None
    if tree.root is None:
        raise ConfigError("it is not XML: it has no element")
    return tree.root


def _section(root: _Element, source: Source) -> _Element:
    if root.name == "uwsgi":
        return root
    for child in root.children:
        matches = not source.named or child.attributes.get("id", source.section) == source.section
        if child.name == "uwsgi" and matches:
            return child
    raise ConfigError(f"it has no element <uwsgi>{f' with the id {source.section}' if source.named else ''}")


def _app(element: _Element) -> Iterator[Pair]:
    """`<app mountpoint="/x"><script>module</script></app>`: an application below a path, or for a host name."""
    target = element.children[0].text if element.children else element.text
    if target:
        if "mountpoint" in element.attributes:
            target = f"{element.attributes['mountpoint']}={target}"
        elif "domain" in element.attributes:
            target = f"{element.attributes['domain']}|={target}"
        yield Pair("mount", target, element.line)
    yield Pair("app", "", element.line)
