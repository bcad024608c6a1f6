"""The serving layout of a checkpoint: where it lies, what its manifest promises, whether it is whole.

    models_dir/<recipe>/<revision>                        the source, as fetched
    models_dir/<recipe>/<revision>.int8-bfloat16-v1/      a prepared form of it, beside it
        model_index.json, tokenizer/, scheduler/          copied
        text_encoder/, transformer/, vae/                 config.json, and shards 00001.safetensors, …
        manifest.json                                     as every checkpoint's, and "layout": what was done

A folder is named after all that decides its bytes, so no two forms ever meet. It appears by one rename after
everything in it is on the disk; without that there is none. `engine.preparing` makes it, the engine's loader
reads it. This module opens no weights and needs no torch. docs/adr/0014 says why it looks as it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from anime_studio.appearing import PARTIAL, REPLACED
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import DEMO, Recipe
from anime_studio.weights import (
    FETCH_COMMAND,
    MANIFEST,
    Checkpoint,
    check_at_start,
    check_files,
    find,
    read_manifest,
    sha256_of,
)

LAYOUT_VERSION: Final = 1
PREPARE_COMMAND: Final = "anime-studio weights prepare"
VERIFY_COMMAND: Final = "anime-studio weights verify"


@dataclass(frozen=True, slots=True)
class Packing:
    """What decides the bytes of a prepared checkpoint, beside its source.

    Attributes:
        text_weights: How the text encoder's linears are packed: a value of `engine.acceleration.TextWeights`.
        dtype: Of everything else, but for what a component keeps wide: `bfloat16` on a GPU, `float32` on a CPU.
    """

    text_weights: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.text_weights}-{self.dtype}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The manifest's `layout`.

    Attributes:
        version: Of the layout itself.
        packing: See `Packing`.
        source_revision: The commit it was made from.
        source_sha256: Of that checkpoint's manifest: the packaged one keeps its revision's name while it is worked on.
        shard_bytes: Size of a shard, at most, unless it holds one larger tensor.
    """

    version: int
    packing: Packing
    source_revision: str
    source_sha256: str
    shard_bytes: int


def read_layout(folder: Path) -> Layout | None:
    """Return what *folder* was prepared as; None for a checkpoint as fetched.

    Raises:
        CheckpointError: The manifest cannot be read, or the layout is of a later version than this one.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        given = json.loads(path.read_text(encoding="utf-8")).get("layout")
        if given is None:
            return None
        version = given["version"]
        if version != LAYOUT_VERSION:
            raise CheckpointError(
                f"{path} describes layout version {version}, this program reads version {LAYOUT_VERSION}; "
                f"update the program, or remove {folder} and {_remedy(folder)}"
            )
        return Layout(**{**given, "packing": Packing(**given["packing"])})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error!r}); remove {folder} and {_remedy(folder)}"
        ) from error


def require_packing(folder: Path, layout: Layout, packing: Packing) -> None:
    """Refuse a form that is packed otherwise than the settings ask for.

    Raises:
        CheckpointError: It is.
    """
    if layout.packing != packing:
        raise CheckpointError(
            f"{folder} is packed as {layout.packing}, these settings ask for {packing}; {_remedy(folder)}"
        )


@dataclass(frozen=True, slots=True)
class Forms:
    """The prepared forms of one checkpoint.

    Attributes:
        source: The checkpoint as fetched, or as it ships with the package.
        base: What forms are named after, and lie beside: `models_dir/<recipe>/<revision>`.
    """

    source: Path
    base: Path

    @classmethod
    def of(cls, recipe: Recipe, source: Path, models_dir: Path) -> Self:
        """Return those of *recipe*'s checkpoint *source*; the package's own folder is not written to."""
        return cls(source, models_dir / recipe.name / recipe.revision if recipe is DEMO else source)

    def folder(self, packing: Packing) -> Path:
        """Return where the form packed as *packing* lies, or would."""
        return self.base.with_name(f"{self.base.name}.{packing}-v{LAYOUT_VERSION}")

    def unfinished(self, packing: Packing) -> Path:
        """Return where that form is written until it is whole; a kill leaves it there."""
        folder = self.folder(packing)
        return folder.with_name(folder.name + PARTIAL)

    def all(self) -> list[Path]:
        """Return every form that is there, of whatever packing and version."""
        found = self.base.parent.glob(f"{self.base.name}.*-v*")
        return sorted(form for form in found if form.suffix not in (PARTIAL, REPLACED))

    def find(self, packing: Packing) -> Path | None:
        """Return the form packed as *packing*, checked as `weights.locate` checks; None if there is none.

        Raises:
            CheckpointError: It is there but damaged, or was made from other bytes; the detail names the file.
        """
        folder = self.folder(packing)
        if not folder.exists():
            return None
        self._check_at_start(folder, packing)
        return folder

    def faults(self) -> list[str]:
        """Return what `find` would say of each form that is there and cannot be used."""
        details = []
        for folder in self.all():
            try:
                self._check_at_start(folder)
            except CheckpointError as error:
                details.append(error.detail)
        return details

    def verify(self, packing: Packing) -> list[Path]:
        """Hash every byte of every form, and return them.

        Raises:
            CheckpointError: A file differs, a form was made from other bytes or by a later version, or there are
                forms but none is packed as *packing*.
        """
        forms = self.all()
        layouts = [self._check(folder) for folder in forms]
        for folder in forms:
            with saying_remedy(folder):
                check_files(folder, read_manifest(folder), hashes=True)
        if forms and self.folder(packing) not in forms:
            require_packing(forms[0], layouts[0], packing)
        return forms

    def _check_at_start(self, folder: Path, packing: Packing | None = None) -> None:
        self._check(folder, packing)
        with saying_remedy(folder):
            check_at_start(folder)

    def _check(self, folder: Path, packing: Packing | None = None) -> Layout:
        layout = read_layout(folder)
        if layout is None:
            raise CheckpointError(f"{folder / MANIFEST} is missing or describes no layout; {_remedy(folder)}")
        if packing is not None:
            require_packing(folder, layout, packing)
        if folder != self.folder(layout.packing):
            raise CheckpointError(
                f"{folder} holds weights packed as {layout.packing}, which its name does not say; "
                f"remove it and {_remedy(folder)}"
            )
        source = self.source / MANIFEST
        if not source.exists() or layout.source_sha256 != sha256_of(source):
            raise CheckpointError(
                f"{folder} was prepared from other bytes than {source} lists now; {_remedy(folder)}"
            )
        return layout


def locate_or_name_all(recipe: Recipe, models_dir: Path, *, fetch_with: str = FETCH_COMMAND) -> Checkpoint:
    """Like `weights.locate`; where that refuses the source, damaged prepared forms are named as well.

    Raises:
        WeightsMissingError, CheckpointError: See `weights.locate`.
    """
    checkpoint = find(recipe, models_dir, fetch_with=fetch_with)
    try:
        check_at_start(checkpoint.folder)
    except CheckpointError as error:
        faults = Forms.of(recipe, checkpoint.folder, models_dir).faults()
        raise CheckpointError(". Its prepared form: ".join([error.detail, *faults])) from error
    return checkpoint


@contextmanager
def saying_remedy(folder: Path) -> Iterator[None]:
    """Say of what is found wrong with a prepared form that preparing again mends it, without a download."""
    try:
        yield
    except CheckpointError as error:
        what = error.detail.partition("; ")[0]
        raise CheckpointError(f"{what}; {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return (
        f"prepare the weights with: {PREPARE_COMMAND} --recipe {folder.parent.name} (on Modal: setup does it)"
    )


def write_manifest(folder: Path, layout: Layout, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest: *files* is relative path -> size_bytes and sha256."""
    content = {"layout": asdict(layout), "files": dict(sorted(files.items()))}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
