"""YAML that people write, read so that nothing in it is dropped: a key that stands twice is an error."""

from typing import Any

import yaml

from gearnn.errors import PlanError

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str, *, source: str) -> Any:
    """The content of a YAML document; JSON is YAML, too.

    Anchors and merge keys (``<<``) are allowed, and a key may replace one that was merged in.

    Args:
        text: the document.
        source: where it came from, for messages.

    Raises:
        PlanError: it is no YAML, or a key stands twice in one mapping; YAML itself would keep the last.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(loader, node, (), source, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanError(f"{source}: expected YAML, but got: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _check_keys(loader: Any, node: yaml.Node, path: tuple[str, ...], source: str, seen: set[int]) -> None:
    if id(node) in seen:  # an anchor's node stands wherever it is referred to, perhaps within itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_keys(loader, item, (*path, str(index)), source, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Any, int] = {}
    for key, value in node.value:
        name, line = _name(loader, key), key.start_mark.line + 1
        if name in lines:
            where = ".".join((*path, str(name)))
            raise PlanError(
                f"{source}: expected every key once, but {where} stands in line {lines[name]} "
                f"and again in line {line}; remove one of them"
            )
        lines[name] = line
        _check_keys(loader, value, (*path, str(name)), source, seen)


def _name(loader: Any, key: yaml.Node) -> Any:
    """A key as the mapping will hold it, so that 1 and 0x1 are one; keys that are no scalars by their text."""
    if key.tag == _MERGE:
        return "<<"
    return loader.construct_object(key) if isinstance(key, yaml.ScalarNode) else yaml.serialize(key)
