"""The Plugins tab's upper half: the installed plugins, the chosen one's card, and what can be done with its file."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from AnyMC3DLib.errors import AnyMC3DError, InputError
from AnyMC3DLib.plugin import read_spec
from AnyMC3DLib.plugin_edit import claims_of

from .card_text import card_text, damaged_text, entry_text
from .loaded_plugins import LoadedPlugins
from .plugin_folder import ENDING, DamagedFile, PluginCard, PluginFolder, read_card
from .plugin_import import claims_text, replaces_text
from .steps import Sequence as StepSequence
from .steps import Steps
from .threshold_panel import ThresholdPanel
from .worker_client import WorkerClient
from .worker_steps import Starting

PATH_ROLE = qt.Qt.UserRole


class Ask(Protocol):
    """The questions that the panel asks a person; whoever leaves one gives an empty answer."""

    def open_file(self, title: str, kinds: str) -> str: ...

    def save_file(self, title: str, name: str, kinds: str) -> str: ...

    def text(self, title: str, label: str, text: str) -> str | None: ...

    def fields(self, title: str, values: Mapping[str, str]) -> dict[str, str] | None: ...

    def yes(self, question: str) -> bool: ...


class PluginsPanel:
    """Connects the widgets of the tab to the folder; `changed` is called whenever a plugin came, went or changed.

    `trash` puts a file into the system's trash and says whether it could.
    """

    def __init__(
        self,
        ui: Any,
        *,
        folder: PluginFolder,
        client: WorkerClient,
        device: Callable[[], str],
        ask: Ask,
        changed: Callable[[], None],
        trash: Callable[[Path], bool] | None = None,
    ) -> None:
        self._ui, self._folder, self._client, self._device = ui, folder, client, device
        self._ask, self._changed, self._trash = ask, changed, trash or move_to_trash
        self._verifying: StepSequence | None = None
        self._filling = False
        self.threshold = ThresholdPanel(ui, keep=self._keep_threshold)
        ui.pluginsList.connect("currentRowChanged(int)", self._row_chosen)
        ui.pluginsEditButton.connect("clicked()", self.edit)
        ui.pluginsDuplicateButton.connect("clicked()", self.duplicate)
        ui.pluginsExportButton.connect("clicked()", self.export)
        ui.pluginsImportButton.connect("clicked()", self.import_file)
        ui.pluginsVerifyButton.connect("clicked()", self.verify)
        ui.pluginsDeleteButton.connect("clicked()", self.delete)
        self.refresh()

    @property
    def chosen(self) -> PluginCard | None:
        """The plugin whose card is shown."""
        return self._one if isinstance(self._one, PluginCard) else None

    def refresh(self) -> None:
        """Read the folder again."""
        self._folder.refresh()
        self._fill(self._path)

    def close(self) -> None:
        """Let go of what is being verified."""
        self._end_verifying()

    # what a person does

    def edit(self) -> None:
        """Change what the plugin says of itself."""
        card = self.chosen
        spec = self._tried(lambda: read_spec(card.path))
        if spec is None:
            return
        labels = {
            _("Name"): "name",
            _("Version"): "version",
            _("Description"): "description",
            _("Licence"): "licence",
            _("Intended use"): "intended_use",
        }
        before = {label: getattr(spec, field) for label, field in labels.items()}
        answers = self._ask.fields(_("Edit the plugin"), before)
        # A field that was left alone is not written: an edit line may show a text otherwise than it is kept.
        new = {labels[name]: text for name, text in (answers or {}).items() if text.strip() != before[name].strip()}
        if new:
            self._change(lambda: self._folder.revise(card, **new), _("The plugin was changed."))

    def duplicate(self) -> None:
        """Copy the plugin under another name."""
        card = self.chosen
        offered = _("{name} copy").format(name=card.name)
        name = self._ask.text(_("Duplicate the plugin"), _("Name of the copy"), offered)
        if name is not None:
            self._change(lambda: self._folder.duplicate(card, name), _("The plugin was copied."))

    def export(self) -> None:
        """Copy the plugin's file to where it can be shared."""
        card = self.chosen
        place = self._ask.save_file(_("Export the plugin"), card.path.name, _kinds())
        if not place:
            return
        whole = Path(place if place.endswith(ENDING) else place + ENDING)
        # The dialog asked about the name that was typed, which is another one.
        if str(whole) != place and whole.exists() and not self._ask.yes(_replace_text(whole)):
            return
        written = self._tried(lambda: self._folder.export(card, whole))
        if written is not None:
            self._tell(_("Exported to {place}").format(place=written))

    def import_file(self) -> None:
        """Show what a file claims, and copy it into the folder once that is accepted."""
        place = self._ask.open_file(_("Import a plugin"), _kinds())
        if not place:
            return
        read = self._tried(lambda: (claims_of(place), read_card(Path(place)).name))
        if read is None:
            return
        claims, name = read
        same = [card for card in self._folder.cards if card.name == name]
        if any(card.path.resolve() == Path(place).resolve() for card in same):
            self._tell(_("This file is the installed plugin itself."))
        elif self._ask.yes(claims_text(claims)) and (not same or self._ask.yes(replaces_text(claims, same[0]))):
            self._change(lambda: self._folder.install(place), _("The plugin was installed."))

    def delete(self) -> None:
        """Move the file to the system's trash, or delete it for good where there is none and that is accepted."""
        one = self._one
        name = one.name if isinstance(one, PluginCard) else one.path.name
        question = _("Delete {name}? Its file {file} is moved to the trash.")
        if not self._ask.yes(f"<p>{_named(question, name=name, file=one.path.name)}</p>"):
            return
        sentence = self._tried(lambda: self._put_away(one.path, name))
        if sentence is not None:
            self._folder.refresh()
            self._now(self._path, sentence)

    def verify(self) -> None:
        """Have the worker open the backbone and compare its weights with those that the plugin was trained on."""
        card, book = self.chosen, LoadedPlugins.of(self._client)
        try:
            book.take(self)
        except AnyMC3DError as error:
            self._tell(str(error))
            return
        good = _("The backbone has the weights that this plugin was trained on.")
        self._verifying = StepSequence(
            verifying(book, self._client, card, self._device(), self._folder.cards),
            done=lambda _: self._verified(card, good),
            failed=lambda error: self._verified(card, str(error)),
            what="The verification",
        )
        self._tell(_("Opening the backbone of {name}…").format(name=card.name))
        self._update()
        self._verifying.begin()

    # behind it

    @property
    def _path(self) -> str:
        item = self._ui.pluginsList.currentItem()
        return item.data(PATH_ROLE) if item is not None else ""

    @property
    def _one(self) -> PluginCard | DamagedFile | None:
        path = self._path
        return next((one for one in (*self._folder.cards, *self._folder.damaged) if str(one.path) == path), None)

    def _fill(self, chosen: str) -> None:
        self._filling = True
        plugins, row = self._ui.pluginsList, max(0, self._ui.pluginsList.currentRow)
        plugins.clear()
        for card in self._folder.cards:
            plugins.addItem(_entry(entry_text(card), card.path))
        grey = qt.QBrush(plugins.palette.color(qt.QPalette.Disabled, qt.QPalette.Text))
        for damaged in self._folder.damaged:
            item = _entry(_("{file}: cannot be used").format(file=damaged.path.name), damaged.path)
            item.setForeground(grey)
            item.setToolTip(damaged.sentence)
            plugins.addItem(item)
        paths = [plugins.item(number).data(PATH_ROLE) for number in range(plugins.count)]
        # After a deletion the next one takes the place of the one that went.
        plugins.setCurrentRow(paths.index(chosen) if chosen in paths else min(row, plugins.count - 1))
        self._filling = False
        self._show()

    def _row_chosen(self, _row: int) -> None:
        if not self._filling:
            self._tell("")
            self._show()

    def _show(self) -> None:
        one = self._one
        if one is None:
            text = html.escape(_("There is no plugin yet: train one, or import one from a file."))
        else:
            text = card_text(one) if isinstance(one, PluginCard) else damaged_text(one)
        self._ui.pluginsCardBrowser.setHtml(text)
        self.threshold.show(self.chosen)
        self._update()

    def _update(self) -> None:
        one, free = self._one, self._verifying is None
        is_plugin = isinstance(one, PluginCard)
        for button in (self._ui.pluginsDuplicateButton, self._ui.pluginsExportButton):
            button.setEnabled(is_plugin)
        # The worker may be reading the file, which Windows then lets nobody replace.
        for button in (self._ui.pluginsEditButton, self._ui.pluginsVerifyButton):
            button.setEnabled(is_plugin and free)
        self._ui.pluginsDeleteButton.setEnabled(one is not None and free)
        self.threshold.set_enabled(free)

    def _tell(self, sentence: str) -> None:
        self._ui.pluginsStateLabel.text = sentence
        self._ui.pluginsStateLabel.setVisible(bool(sentence))

    def _tried(self, act: Callable[[], Any]) -> Any:
        """What `act` returns; None where it raises, whose sentence is then shown."""
        try:
            return act()
        except AnyMC3DError as error:
            self._tell(str(error))
            return None

    def _change(self, act: Callable[[], PluginCard], sentence: str) -> None:
        """Do what changes the folder, and show the plugin that comes of it."""
        card = self._tried(act)
        if card is not None:
            self._now(str(card.path), sentence)

    def _now(self, path: str, sentence: str) -> None:
        self._fill(path)
        self._tell(sentence)
        self._changed()

    def _put_away(self, path: Path, name: str) -> str | None:
        """What became of the file, None where it stays."""
        if self._trash(path):
            return _("{name} was moved to the trash.").format(name=name)
        question = _("The system has no trash for {file}, which can only be deleted for good. Delete it?")
        if not self._ask.yes(f"<p>{_named(question, file=path.name)}</p>"):
            return None
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            words = _("'{file}' cannot be deleted: {reason}.")
            raise InputError(words.format(file=path.name, reason=error.strerror or error)) from error
        return _("{name} was deleted.").format(name=name)

    def _keep_threshold(self, card: PluginCard, class_name: str, value: float) -> None:
        revised = self._folder.revise(card, thresholds={class_name: value})
        words = _("The threshold of {class_name} is {value:.2f} from now on.")
        self._change(lambda: revised, words.format(class_name=class_name, value=value))

    def _verified(self, card: PluginCard, sentence: str) -> None:
        self._end_verifying()
        # Another plugin may have been chosen meanwhile.
        self._tell(sentence if card == self.chosen else f"{card.name}: {sentence}")
        self._update()

    def _end_verifying(self) -> None:
        run, self._verifying = self._verifying, None
        if run is not None:
            run.cancel()
            LoadedPlugins.of(self._client).give_back(self)


def verifying(
    book: LoadedPlugins, client: WorkerClient, card: PluginCard, device: str, installed: Sequence[PluginCard]
) -> Steps:
    """Have the worker load a plugin, which compares the weights, and let it go unless it was loaded before."""
    yield Starting(client)
    if book.has(card, None, device):
        return
    held = [one for one in installed if one.name != card.name and book.has(one, None, device)]
    yield book.load(card, None, device, progress=lambda _: None)
    for step in book.unload_all_but(held, device):  # noqa: UP028 - the iterator of a list is sent no results
        yield step


def move_to_trash(path: Path) -> bool:
    """Put a file into the system's trash, and say whether that was possible."""
    file = qt.QFile(str(path))
    # Qt has it from 5.15 on.
    return hasattr(file, "moveToTrash") and bool(file.moveToTrash())


def _named(words: str, **names: str) -> str:
    """A sentence as HTML, with names that may hold anything."""
    return html.escape(words).format(**{key: f"<b>{html.escape(name)}</b>" for key, name in names.items()})


def _replace_text(place: Path) -> str:
    return f"<p>{_named(_('{file} exists already. Replace it?'), file=place.name)}</p>"


def _entry(text: str, path: Path) -> qt.QListWidgetItem:
    item = qt.QListWidgetItem(text)
    item.setData(PATH_ROLE, str(path))
    item.setToolTip(text)
    return item


def _kinds() -> str:
    return f"{_('Plugins')} (*{ENDING})"
