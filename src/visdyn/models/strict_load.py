"""The one door through which weights come into the kit: found, read, compared name by name, and refused where wrong.

The libraries fill what a checkpoint lacks with random numbers and go on. Here weights that are missing, unknown, of
another shape or no numbers end the load with their names, an adapter must fit its base wholly, and names that a
training wrapper or an older library wrote are translated, which is said. No code of a checkpoint is ever run. A test
finds any load in the kit that goes past this module.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from visdyn.models.adapters import SETTINGS
from visdyn.models.weight_files import (
    SUFFIXES,
    CheckpointError,
    StoredTensor,
    check_counts,
    check_weight_file,
    find_weight_files,
    read_headers,
    read_settings,
    shorten_names,
    unwrap_names,
)

# So many missing numbers, or as many as are stored, may be drawn at random before their names are reported; more are
# refused before that is paid: .4 GB in float32.
_MOST_MISSING = 10**8
# Where the parts of a VLM lay before transformers 4.52, and where they lie since.
_OLD_PREFIXES = (
    ("model.layers.", "model.language_model.layers."),
    ("layers.", "model.language_model.layers."),  # an adapter of the decoder alone
    ("layers.", "model.layers."),
    ("language_model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("visual.", "model.visual."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_ADAPTED = "base_model.model."
_PATTERN_SECONDS = 10


def load_pretrained(kind, folder: Path, unused: Mapping[str, str] | None = None, **options):
    """Load a model of transformers or diffusers with exactly the weights of a folder.

    Args:
        kind: its class, or an Auto class of transformers.
        folder: in the `save_pretrained` layout, with config.json.
        unused: patterns of stored names that this use of the model needs not, each with the reason.
        options: of the class's `from_pretrained`, such as `dtype`.

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        CheckpointError: weights are missing, unknown, of another shape or no finite numbers, the files are cut or
            pointers, or the library cannot build what config.json asks for.
    """
    settings = read_settings(folder / "config.json")
    _check_file_names(settings, folder)
    diffusers = hasattr(kind, "load_config")
    stems = ("diffusion_pytorch_model",) if diffusers else ("model", "pytorch_model")
    files = find_weight_files(folder, stems, options.get("variant"))
    pickled = files[0].suffix != ".safetensors"
    if diffusers and pickled:
        raise CheckpointError(f"{files[0]} is pickled; fetch the folder's safetensors, or convert it")
    # Of pickled weights only the library's own comparison looks at the names.
    stored = {} if pickled else read_headers(files)
    check_counts(settings, folder / "config.json", len(stored))
    arguments = options | {"output_loading_info": True}
    try:
        if diffusers:
            model, report = kind.from_pretrained(str(folder), local_files_only=True, **arguments)
        else:
            arguments |= {"trust_remote_code": False, "ignore_mismatched_sizes": True}  # they are refused below
            config = _load_config(kind, folder)
            if stored and "quantization_config" not in settings:
                _check_amount(kind, config, folder, stored)
            weights = _translate_weights(kind, config, folder, stored)
            if weights is None:
                model, report = kind.from_pretrained(str(folder), local_files_only=True, **arguments)
            else:
                model, report = kind.from_pretrained(None, config=config, state_dict=weights, **arguments)
                _load_generation_settings(model, folder)
    except (CheckpointError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # the libraries raise a dozen unrelated kinds
        raise CheckpointError(f"{folder} cannot be loaded as {kind.__name__}: {_describe_error(error)}") from error
    _check_report(folder, report, unused or {})
    require_finite(model, folder)
    return model


def load_pipeline(kind, folder: Path, **options):
    """Load a diffusers pipeline, each of its models as `load_pretrained` does.

    Args:
        kind: class of the pipeline.
        folder: with model_index.json and a folder for each part.
        options: of its `from_pretrained`: `dtype`, `variant`, parts that replace the folder's.

    Raises:
        CheckpointError: the weights of a part are not exactly that part's, or a part cannot be loaded.
    """
    index = read_settings(folder / "model_index.json")
    shared = {key: options[key] for key in ("dtype", "variant") if options.get(key) is not None}
    for name, entry in index.items():
        named = isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)
        if named and name not in options and any(file.suffix in SUFFIXES for file in (folder / name).glob("*")):
            options[name] = load_pretrained(_find_part(*entry, folder), folder / name, **shared)
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # diffusers raises a dozen unrelated kinds
        raise CheckpointError(f"{folder} cannot be loaded as {kind.__name__}: {_describe_error(error)}") from error


def _find_part(library: str, name: str, folder: Path):
    """Return the class of a pipeline's part: of diffusers, of transformers, or of a pipeline's own module."""
    import diffusers
    import transformers

    modules = {"diffusers": diffusers, "transformers": transformers}
    found = getattr(modules.get(library, getattr(diffusers.pipelines, library, None)), name, None)
    if found is None:
        raise CheckpointError(f"{folder / 'model_index.json'} names {library}.{name}, which no library here has")
    return found


def _check_file_names(settings: Mapping, folder: Path) -> None:
    """Refuse settings that send the library to weights elsewhere."""
    name = settings.get("transformers_weights")
    if name is not None:
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers_weights names {str(name)[:80]!r}; the kit reads model.safetensors "
            "only: rename the file, and take the key out"
        )
    if (folder / SETTINGS).is_file():
        raise CheckpointError(f"{folder} is a model and an adapter in one, or an adapter of an adapter; merge it first")


def _load_config(kind, folder: Path):
    from transformers import AutoConfig

    own = getattr(kind, "config_class", None) or AutoConfig
    return own.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _check_amount(kind, config, folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse settings that ask for far more numbers than are stored; the library would draw the rest, for hours.

    Raises:
        CheckpointError: more than `_MOST_MISSING` are missing, and more than are there.
    """
    import torch

    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False) if hasattr(kind, "from_config") else kind(config)
    asked = sum(parameter.numel() for parameter in model.parameters())
    held = sum(math.prod(tensor.shape) for tensor in stored.values())
    if asked - held > max(_MOST_MISSING, held):
        raise CheckpointError(
            f"{folder / 'config.json'} asks for a model of {asked:,} numbers, but {held:,} are stored; "
            "are its weights and its config.json of one model?"
        )


def _translate_weights(kind, config, folder: Path, stored: Mapping[str, StoredTensor]) -> dict | None:
    """Return the weights under the names and shapes of today, where they are stored otherwise; else None.

    A class may know an older layout of its own: `is_old_layout(shapes)` says so, `translate_layout(weights, config)`
    brings it up to date.
    """
    plain = unwrap_names(stored)
    changed = [name for name, own in plain.items() if name != own]
    shapes = {plain[name]: tensor.shape for name, tensor in stored.items()}
    old = hasattr(kind, "is_old_layout") and kind.is_old_layout(shapes)
    if not changed and not old:
        return None
    weights = {plain[name]: tensor for name, tensor in read_tensors({t.file for t in stored.values()}).items()}
    if changed:
        _say_translated(folder, changed[0], plain[changed[0]], len(changed))
    return kind.translate_layout(weights, config) if old else weights


def _say_translated(where: Path, before: str, after: str, count: int) -> None:
    warnings.warn(f"{where}: {count} names of weights were translated, such as {before} to {after}", stacklevel=4)


def _load_generation_settings(model, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)


def _check_report(folder: Path, report: Mapping, unused: Mapping[str, str]) -> None:
    """Refuse what a library reports that it left out or filled in."""
    shapes = [
        f"{name} {tuple(found)}, expected {tuple(wanted)}" for name, found, wanted in report.get("mismatched_keys", ())
    ]
    needless = re.compile("|".join(unused) or r"(?!)")
    unknown = [name for name in report.get("unexpected_keys", ()) if not needless.search(name)]
    refuse_names(folder, report.get("missing_keys", ()), unknown, shapes)
    if errors := list(report.get("error_msgs", ())):
        raise CheckpointError(f"{folder} cannot be loaded: {errors[0]}")


def refuse_names(where: str | Path, missing: Iterable[str], unknown: Iterable[str], shapes: Iterable[str]) -> None:
    """Refuse weights of which some are missing, unknown or of another shape; nothing happens where none is.

    Raises:
        CheckpointError: with the first three names of each kind.
    """
    missing, unknown, shapes = sorted(missing), sorted(unknown), sorted(shapes)
    faults = [
        f"{len(names)} tensors {what}: {shorten_names(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        # Whole layers of which nothing is there, or nothing was asked for.
        lone = missing or unknown
        layers = len(lone) > 4 and not (missing and unknown) and all(re.search(r"\.\d+\.", name) for name in lone)
        depth = " (another number of layers?)" if layers and not shapes else ""
        raise CheckpointError(
            f"{where}: {'; '.join(faults)}; are its weights and its configuration of one model{depth}?"
        )


def read_tensors(files: Path | Iterable[Path], device: str = "cpu") -> dict:
    """Read all tensors of safetensors files, whole or not at all.

    Raises:
        CheckpointError: a file is missing, cut, a pointer or no safetensors file.
    """
    from safetensors.torch import load_file

    tensors = {}
    for file in [files] if isinstance(files, Path) else sorted(files):
        check_weight_file(file)
        try:
            tensors |= load_file(file, device=device)
        except Exception as error:  # safetensors' own kind, and those of torch
            raise CheckpointError(f"{file} cannot be read ({_describe_error(error)}); download it again") from error
    return tensors


def iterate_tensors(file: Path, prefixes: tuple[str, ...] = ("",), device: str = "cpu"):
    """Yield the names and tensors of a safetensors file one by one, only those whose names begin with one of the
    prefixes; errors as for `read_tensors`.
    """
    from safetensors import safe_open

    check_weight_file(file)
    try:
        with safe_open(file, framework="pt", device=device) as opened:
            for name in opened.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if name.startswith(prefixes):
                    yield name, opened.get_tensor(name)
    except (OSError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({_describe_error(error)}); download it again") from error


def read_pickle(path: Path, allowed: Sequence[type] = ()) -> dict:
    """Read a pickled mapping of tensors and plain values; code in it is never run.

    Args:
        allowed: classes beside those of torch that it may hold.

    Raises:
        CheckpointError: it is missing, cut, a pointer, no mapping, or holds something else.
    """
    import torch

    check_weight_file(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's kind, and those of torch and zipfile
        raise CheckpointError(
            f"{path} cannot be read as tensors ({_describe_error(error)}); download it again"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a mapping of tensors")
    return loaded


def load_state(model, weights: Mapping, where: str | Path, may_lack: Sequence[str] = ()):
    """Fill a module with exactly these weights, which it takes as they are (their types and places); return it.

    Args:
        model: a `torch.nn.Module`, often on the meta device.
        weights: name -> tensor; names that a training wrapper has prefixed are translated.
        where: file or folder, for messages.
        may_lack: names that may be missing; the caller computes them.

    Raises:
        CheckpointError: weights are missing, unknown, of another shape or no finite numbers.
    """
    import torch

    if others := [name for name, tensor in weights.items() if not isinstance(tensor, torch.Tensor)]:
        raise CheckpointError(f"{where}: {shorten_names(others)} are no tensors; give the weights alone")
    plain = unwrap_names(weights)
    if changed := [name for name, own in plain.items() if name != own]:
        _say_translated(Path(where), changed[0], plain[changed[0]], len(changed))
    weights = {plain[name]: tensor for name, tensor in weights.items()}
    wanted = model.state_dict()
    shapes = [
        f"{name} {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
        for name, tensor in weights.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    refuse_names(where, wanted.keys() - weights.keys() - set(may_lack), weights.keys() - wanted.keys(), shapes)
    require_finite(weights, where)
    model.load_state_dict(weights, strict=False, assign=True)
    return model


def require_finite(weights, where: str | Path) -> None:
    """Refuse weights that are no numbers.

    Args:
        weights: a module, or a mapping of tensors.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    import torch

    tensors = weights if isinstance(weights, Mapping) else weights.state_dict()
    wrong = [name for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor) and not is_finite(tensor)]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} tensors hold NaN or infinity: {shorten_names(wrong)}; its training diverged, or a "
            "conversion overflowed: take another checkpoint"
        )


def is_finite(tensor) -> bool:
    """Say whether all of a tensor's elements are finite numbers; integers, and tensors without values, are."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or not tensor.numel():
        return True
    with torch.no_grad():
        tensor = tensor.float() if tensor.element_size() == 1 else tensor  # of float8, torch does not know
        return bool(torch.isfinite(tensor).all())


def load_adapter(model, folder: Path, name: str = "default", **options):
    """Put a LoRA adapter (peft) on a model; every weight of the file finds its place, and every place its weight.

    Args:
        model: the base, or what this function returned, for a second adapter.
        folder: with adapter_config.json and adapter_model.safetensors.
        name: of the adapter, where there are several.
        options: of peft, such as `autocast_adapter_dtype`.

    Returns:
        the `peft.PeftModel`, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: the adapter does not fit the model wholly, its weights are no finite numbers, or it is no LoRA.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    settings = read_settings(folder / SETTINGS)
    file = find_weight_files(folder, ("adapter_model",))[0]
    weights = read_tensors(file) if file.suffix == ".safetensors" else read_pickle(file)
    require_finite(weights, file)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    _check_adapter_settings(settings, weights, base, folder)
    weights = _translate_adapter(weights, base, file)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if isinstance(model, PeftModel):
            model.add_adapter(name, config, **options)
        else:
            model = PeftModel(model, config, name, **options)
        report = set_peft_model_state_dict(model, weights, adapter_name=name)
    except Exception as error:  # peft raises a dozen unrelated kinds
        raise CheckpointError(f"the adapter {folder} does not fit its base: {_describe_error(error)}") from error
    # The base's own weights are no part of the file; `.name.` marks what belongs to this adapter.
    missing = [key for key in report.missing_keys if f".{name}." in f"{key}." and "base_layer" not in key]
    refuse_names(f"the adapter {folder}", missing, report.unexpected_keys, ())
    return model.eval()


def _check_adapter_settings(settings: Mapping, weights: Mapping, base, folder: Path) -> None:
    """Refuse settings of an adapter that peft would build for hours, or that are no LoRA's."""
    path = folder / SETTINGS
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {str(settings.get('peft_type'))[:40]!r}; the kit loads LORA only")
    if settings.get("layer_replication"):
        raise CheckpointError(f"{path}: layer_replication makes a model of another depth; merge it into its base first")
    check_counts(settings, path, len(weights))
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(settings.get(field) or {}, dict):
            raise CheckpointError(f"{path}: {field} is no mapping of modules to numbers; correct it")
    parts = [tensor for key, tensor in weights.items() if ".lora_A." in key or "lora_embedding_A" in key]
    ranks = [tensor.shape[0] for tensor in parts if tensor.dim()]
    stated = [settings.get("r", 8), *(settings.get("rank_pattern") or {}).values()]
    if not ranks or not all(isinstance(rank, int) and 0 < rank <= 8 * max(ranks) for rank in stated):
        raise CheckpointError(
            f"{path} asks for rank {', '.join(str(rank)[:20] for rank in stated[:3])}, but its weights have "
            f"{max(ranks, default='none')}; are the two files of one adapter?"
        )
    patterns = [settings.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern")]
    patterns = [text for text in patterns if isinstance(text, str) and text != "all-linear"]
    patterns += [key for field in ("rank_pattern", "alpha_pattern") for key in settings.get(field) or {}]
    _try_patterns([text for text in patterns if not re.fullmatch(r"[\w.]*", text)], base, path)


def _try_patterns(patterns: Sequence[str], base, path: Path) -> None:
    """Match patterns with the names of the base's modules in a process that can be ended, as no match can in this one.

    Raises:
        CheckpointError: a pattern is none, or takes longer than a few seconds.
    """
    if not patterns:
        return
    import json

    names = [name for name, _ in base.named_modules()]
    code = (
        "import json, re, sys\n"
        "patterns, names = json.load(sys.stdin)\n"
        "for text in patterns:\n"
        "    for name in names:\n"
        "        re.fullmatch(text, name), re.match(rf'(.*\\.)?({text})$', name)\n"
    )
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            input=json.dumps([patterns, names]).encode(),
            capture_output=True,
            check=True,
            timeout=_PATTERN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{path}: matching {patterns[0][:80]!r} with the model's names takes over {_PATTERN_SECONDS} seconds; "
            "name the modules in a list"
        ) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointError(f"{path}: {patterns[0][:80]!r} is no regular expression ({last})") from error


def _translate_adapter(weights: Mapping, base, file: Path) -> dict:
    """Bring an adapter's names up to date: without a training wrapper's prefixes, and where a VLM's parts lie today."""
    plain = unwrap_names(weights)
    modules = {name for name, _ in base.named_modules()}
    names = {key: _ADAPTED + _place_adapter(_unwrap_base(own), modules) for key, own in plain.items()}
    if len(set(names.values())) != len(names):
        raise CheckpointError(f"{file}: two of its weights would become one under the names of today; convert it")
    if changed := [key for key, own in names.items() if key != own]:
        _say_translated(file, changed[0], names[changed[0]], len(changed))
    return {names[key]: tensor for key, tensor in weights.items()}


def _unwrap_base(name: str) -> str:
    """Return an adapter's name below the model, as peft writes it: without its own name and a wrapper's."""
    inner = re.sub(r"(\.lora_[a-zA-Z_]+)\.default\b", r"\1", name.removeprefix(_ADAPTED))
    while inner.startswith("module."):
        inner = inner.removeprefix("module.")
    return inner


def _place_adapter(name: str, modules: set[str]) -> str:
    """Return a name that leads to a module of the model: itself, or where an older library's now lies."""
    # An adapted module's weights are `module.lora_A.weight`, those of one that trained as a whole `module.weight`.
    module = re.split(r"\.lora_", name)[0] if ".lora_" in name else name.rpartition(".")[0]
    for before, after in (("", ""), *_OLD_PREFIXES):
        if name.startswith(before) and after + module.removeprefix(before) in modules:
            return after + name.removeprefix(before)
    return name


def load_tokenizer(folder: Path):
    """Load the tokenizer of a folder.

    Raises:
        CheckpointError: it cannot be read; the message says why.
    """
    from transformers import AutoTokenizer

    return _load_part(AutoTokenizer, folder)


def load_processor(kind, folder: Path, **options):
    """Load preprocessing with a class of transformers (`AutoImageProcessor`, ...); errors as for `load_tokenizer`."""
    return _load_part(kind, folder, **options)


def _load_part(kind, folder: Path, **options):
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises a dozen unrelated kinds
        raise CheckpointError(f"{folder}: {kind.__name__} cannot read it: {_describe_error(error)}") from error


def _describe_error(error: BaseException) -> str:
    """Return the kind of a library's error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
