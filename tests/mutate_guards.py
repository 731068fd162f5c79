"""Switch each guard off in turn and see a test fail: `make guards`, or `python tests/mutate_guards.py [WORD ...]`.

A guard is a few words of one source file, found there exactly once. In a scratch copy of the package they give way to
others, and the test that is named beside them is run: it must fail (or hang, where the guard keeps from hanging), and
before that pass on the sources as they are. `tests/test_guards.py` holds the table to the sources.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from reliability_page import Result, find_commit, write_results

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240  # that one test may take
LIBRARIES = ("torch", "pandas", "scipy.stats", "PIL.Image", "cv2", "hypothesis", "transformers", "peft", "diffusers")


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        family: what it belongs to.
        name: what it does.
        file: of the package, from `src/visdyn/` on.
        old: its words, once in the file.
        new: what stands in their place where the guard is off.
        test: `test_file.py::test_function` that must then fail.
        hangs: the guard keeps something from taking for ever, so that the test may hang as well.
    """

    family: str
    name: str
    file: str
    old: str
    new: str
    test: str
    hangs: bool = False


WEIGHTS, NUMBERS, SETTINGS, READERS, RESULTS = "weights", "no numbers", "settings", "readers", "edited results"
ENVIRONMENT, LATE, EQUAL, JUDGES, STUDY, CAMPAIGN = (
    "environment", "late guards", "equal files", "judges", "human study", "campaign")  # fmt: skip
FAMILIES = (WEIGHTS, NUMBERS, SETTINGS, READERS, RESULTS, ENVIRONMENT, LATE, EQUAL, JUDGES, STUDY, CAMPAIGN)
REPORT = 'refuse_names(folder, report.get("missing_keys", ()), unknown, shapes)'
EXACTLY = "test_strict_load.py::test_weights_that_are_not_exactly_the_models_are_refused"
FILES = "test_strict_load.py::test_a_file_that_holds_no_weights_is_named_as_what_it_is"
DIVERGED = "test_fit.py::test_the_first_loss_or_gradient_that_is_no_number_ends_a_training"
BAD_YAML = "test_yaml_files.py::test_what_cannot_be_read_is_refused_in_one_short_sentence_at_once"
BAD_VALUE = "test_params.py::test_a_value_that_may_not_stand_there_is_refused_with_what_may"
BAD_JSON = "test_readers.py::test_bad_json_is_refused"
TORTURE = "../../tests/torture.py"
FOREIGN = "test_arithmetic.py::test_a_foreign_setting_does_not_reach_a_stage"

GUARDS = (
    # ------------------------------------------------------------ weights
    Guard(WEIGHTS, "missing names", "models/strict_load.py", REPORT,
          "refuse_names(folder, (), unknown, shapes)", EXACTLY),
    Guard(WEIGHTS, "unknown names", "models/strict_load.py", REPORT,
          'refuse_names(folder, report.get("missing_keys", ()), (), shapes)', EXACTLY),
    Guard(WEIGHTS, "other shapes", "models/strict_load.py", REPORT,
          'refuse_names(folder, report.get("missing_keys", ()), unknown, ())', EXACTLY),
    Guard(WEIGHTS, "no numbers in a model", "models/strict_load.py",
          "_check_report(folder, report, unused or {})\n    require_finite(model, folder)",
          "_check_report(folder, report, unused or {})", EXACTLY),
    Guard(WEIGHTS, "no numbers in a module", "models/strict_load.py", "    require_finite(weights, where)\n", "",
          "test_strict_load.py::test_a_module_is_filled_strictly"),
    Guard(WEIGHTS, "names of a module", "models/strict_load.py",
          "refuse_names(where, wanted.keys() - weights.keys() - set(may_lack), weights.keys() - wanted.keys(), shapes)",
          "pass", "test_strict_load.py::test_a_module_is_filled_strictly"),
    Guard(WEIGHTS, "another depth", "models/strict_load.py",
          '    refuse_names(folder, report.get("missing_keys", ()), unknown, shapes)\n', "",
          "test_strict_load.py::test_a_configuration_of_another_depth_is_refused"),
    Guard(WEIGHTS, "names of a training wrapper", "models/strict_load.py", "plain = unwrap_names(stored)",
          "plain = {name: name for name in stored}",
          "test_strict_load.py::test_names_of_a_training_wrapper_are_translated_and_said"),
    Guard(WEIGHTS, "an adapter fits wholly", "models/strict_load.py",
          'refuse_names(f"the adapter {folder}", missing, report.unexpected_keys, ())', "pass",
          "test_strict_load.py::test_an_adapter_fits_wholly_or_is_refused"),
    Guard(WEIGHTS, "settings of an adapter", "models/strict_load.py",
          "    _check_adapter_settings(settings, weights, base, folder)\n", "",
          "test_strict_load.py::test_settings_of_an_adapter_are_checked", hangs=True),
    Guard(WEIGHTS, "no foreign code", "models/strict_load.py",
          'arguments |= {"trust_remote_code": False', 'arguments |= {"trust_remote_code": True',
          "test_strict_load.py::test_no_code_of_a_checkpoint_is_trusted"),
    Guard(WEIGHTS, "no code in pickles", "models/strict_load.py", 'map_location="cpu", weights_only=True',
          'map_location="cpu", weights_only=False',
          "test_strict_load.py::test_pickled_weights_are_read_without_their_code"),
    Guard(WEIGHTS, "mappings of an adapter", "models/strict_load.py",
          "if not isinstance(settings.get(field) or {}, dict):", "if False:",
          "test_reader_properties.py::test_a_pattern_of_an_adapter_that_is_no_mapping_is_refused"),
    Guard(WEIGHTS, "sides that are no numbers", "models/weight_files.py", ", OverflowError, RecursionError", "",
          "test_reader_properties.py::test_a_side_beyond_all_numbers_is_no_header"),
    Guard(WEIGHTS, "git-lfs pointers", "models/weight_files.py", "if start.lstrip().startswith(mark):", "if False:",
          FILES),
    Guard(WEIGHTS, "cut files", "models/weight_files.py", "if size != 8 + length + end:", "if False:", FILES),
    Guard(WEIGHTS, "shards beside the index", "models/weight_files.py",
          'if outside := [name for name in names if Path(name).name != name or name in ("", ".", "..")]:',
          "if outside := []:", "test_strict_load.py::test_an_index_names_files_beside_it"),
    Guard(WEIGHTS, "numbers in config.json", "models/weight_files.py",
          "if isinstance(value, float) and not math.isfinite(value):", "if False:",
          "test_strict_load.py::test_settings_that_are_none_are_named"),
    Guard(WEIGHTS, "the doctor looks into files", "pipeline/doctor.py",
          "fault = None if place is None else find_fault(place)", "fault = None",
          "test_doctor.py::test_files_that_are_no_weights_are_named_and_their_stages_wait"),
    # ------------------------------------------------------------ numbers that are no numbers
    Guard(NUMBERS, "a loss that is none ends the training", "training/engine/trainer.py",
          "if not math.isfinite(value):", "if False:", DIVERGED),
    Guard(NUMBERS, "weights before they are saved", "training/engine/trainer.py",
          "if wrong := find_non_finite(self.model):", "if wrong := []:",
          "test_fit.py::test_no_checkpoint_holds_weights_that_are_no_numbers"),
    Guard(NUMBERS, "weights of a checkpoint", "training/engine/trainer.py",
          "_internal_call=False):\n        self.require_finite_weights()", "_internal_call=False):",
          "test_fit.py::test_no_checkpoint_holds_weights_that_are_no_numbers"),
    Guard(NUMBERS, "weights at the end", "training/engine/fit.py", "    trainer.require_finite_weights()\n", "",
          "test_fit.py::test_weights_that_are_lost_after_the_last_checkpoint_are_not_saved"),
    Guard(NUMBERS, "pixels", "images.py", "if not pixels.isfinite().all():", "if False:",
          "test_images.py::test_pixels_that_are_no_numbers_are_no_image"),
    Guard(NUMBERS, "likelihoods", "inference/probing.py",
          "means = np.where(np.isfinite(means), means, np.float32(np.nan))", "means = np.nan_to_num(means)",
          "test_probing.py::test_what_a_model_answers_without_a_number_is_an_empty_cell"),
    Guard(NUMBERS, "preferences", "inference/probing.py",
          'known = np.isfinite(rows[["reference", "log_likelihood"]].astype(float)).all(axis=1)',
          'known = rows["reference"].notna() | True',
          "test_probing.py::test_likelihoods_that_are_no_numbers_are_unmeasured_not_lost_comparisons"),
    Guard(NUMBERS, "a pipeline's pixels", "models/editors/diffusers_editors.py",
          "if not np.isfinite(pixels).all():", "if False:",
          "test_diffusion_editors.py::test_pixels_that_are_no_numbers_are_no_black_image"),
    Guard(NUMBERS, "a generator's latents", "models/bagel/sampler.py",
          "whole = latents.isfinite().flatten(1).all(1) & decoded.isfinite().flatten(1).all(1)",
          "whole = latents.flatten(1).all(1) | True",
          "test_bagel_editor.py::test_latents_that_are_no_numbers_are_no_black_image"),
    Guard(NUMBERS, "features", "evaluation/metrics/similarity.py",
          "if not (np.isfinite(left).all() and np.isfinite(right).all()):", "if False:", "test_similarity.py"),
    # ------------------------------------------------------------ settings
    Guard(SETTINGS, "choices", "params/reading.py",
          "if value not in parts or type(value) is not type(parts[parts.index(value)]):", "if False:", BAD_VALUE),
    Guard(SETTINGS, "ranges", "params/reading.py", "if not (too_low or too_high):", "if True:", BAD_VALUE),
    Guard(SETTINGS, "finite numbers", "params/reading.py", "if hint is float and not math.isfinite(value):",
          "if False:", BAD_VALUE),
    Guard(SETTINGS, "unknown keys", "params/reading.py", "        if key not in names:\n", "        if False:\n",
          "test_params.py::test_an_unknown_key_names_file_section_key_and_the_nearest"),
    Guard(SETTINGS, "control characters", "params/reading.py",
          "found = self.checked and isinstance(value, str) and re.search(odd, value)",
          "found = None", BAD_VALUE),
    Guard(SETTINGS, "a key twice", "yaml_files.py", '    return YAML(typ="safe", pure=True)',
          '    reader = YAML(typ="safe", pure=True)\n    reader.allow_duplicate_keys = True\n    return reader',
          BAD_YAML),
    Guard(SETTINGS, "aliases that multiply", "yaml_files.py", "if total > MOST_VALUES:", "if False:", BAD_YAML,
          hangs=True),
    Guard(SETTINGS, "deep nesting", "yaml_files.py", "if len(open_nodes) > DEEPEST:", "if False:", BAD_YAML),
    Guard(SETTINGS, "plain values", "yaml_files.py", "elif not isinstance(value, str | int | float | None):",
          "elif False:", BAD_YAML),
    Guard(SETTINGS, "values in messages", "yaml_files.py",
          'return shown if len(shown) <= 120 else f"{shown[:117]}..."', "return repr(value)",
          "test_yaml_files.py::test_values_are_clipped", hangs=True),
    Guard(SETTINGS, "dvc.yaml has lists", "pipeline/guards.py",
          "if not all(isinstance(one, list) for one in lists.values()):", "if False:",
          "test_pipeline.py::test_a_dvc_yaml_that_is_none_is_a_sentence"),
    Guard(SETTINGS, "the share set aside", "quarantine.py",
          "if self.most is None or not aside or (usable and aside <= self.most * (aside + usable)):", "if True:",
          "test_quarantine.py::test_a_data_set_of_which_too_much_is_set_aside_is_refused_in_one_sentence"),
    Guard(SETTINGS, "a reader asks for the share", "datasets/bad_items.py",
          "    bad.refuse_most(origin, len(usable), before)\n", "",
          "test_quarantine.py::test_a_reader_that_sets_too_much_aside_says_so_at_its_end"),
    Guard(SETTINGS, "mining asks for the share", "mining/clip_mining.py",
          'bad.refuse_most("clips", len(lengths), before)', "pass",
          "test_empty_data.py::test_clips_of_which_none_can_be_read_are_refused"),
    Guard(SETTINGS, "an empty data set", "datasets/bad_items.py", "    if not len(rows):\n", "    if False:\n",
          "test_empty_data.py::test_a_reader_refuses_a_file_without_an_item"),
    # ------------------------------------------------------------ readers
    Guard(READERS, "an image's size, before it is decoded", "images.py", "    _check_size(image)\n    rawmode",
          "    rawmode", "test_image_files.py::test_too_many_pixels_are_refused_before_they_are_decoded"),
    Guard(READERS, "orientation", "images.py", "turn = _UPRIGHT.get(_read_orientation(image))", "turn = None",
          "test_image_files.py::test_a_camera_s_image_stands_upright"),
    Guard(READERS, "transparency", "images.py", "    if alpha is not None:\n", "    if False:\n",
          "test_image_files.py::test_transparency_lies_on_white"),
    Guard(READERS, "16 bits", "images.py", "values = (values >> 8).astype(np.uint8)  # the high byte",
          "values = values.clip(0, 255).astype(np.uint8)  # the high byte",
          "test_image_files.py::test_sixteen_bits_are_seen_as_eight"),
    Guard(READERS, "whatever a decoder raises", "images.py",
          "except Exception as error:  # decoders of hostile files raise anything",
          "except OSError as error:  # decoders of hostile files raise anything",
          "test_image_files.py::test_whatever_a_decoder_raises_names_the_file"),
    Guard(READERS, "no formats that start programs", "images.py", "Image.open(file, formats=formats)",
          "Image.open(file)", "test_image_files.py::test_an_eps_starts_no_program"),
    Guard(READERS, "a video that is cut", "videos.py", "    if _ends_early(path):\n", "    if False:\n",
          "test_video_files.py::test_every_container_is_refused_when_it_is_cut"),
    Guard(READERS, "a video's size, before it is decoded", "videos.py", "if width * height > MAX_PIXELS:", "if False:",
          "test_video_files.py::test_frames_too_large_are_refused_before_they_are_decoded"),
    Guard(READERS, "a key twice in JSON", "readers.py", "if len(found) < len(pairs):", "if False:", BAD_JSON),
    Guard(READERS, "NaN in JSON", "readers.py", "parse_constant=_refuse_constant, ", "", BAD_JSON),
    Guard(READERS, "deep JSON", "readers.py",
          'except RecursionError:\n        raise _BadJSONError("it is nested too deeply") from None',
          "except ZeroDivisionError:\n        raise", BAD_JSON),
    Guard(READERS, "bytes that are no text", "readers.py", "return content.decode(encoding)",
          'return content.decode(encoding, "replace")',
          "test_readers.py::test_other_text_and_what_is_no_file_are_named"),
    Guard(READERS, "ragged rows", "readers.py", "        if len(cells) != len(head):\n", "        if False:\n",
          "test_readers.py::test_a_ragged_row_is_no_frame"),
    Guard(READERS, "byte 0 in CSV", "readers.py", 'if "\\0" in text:', "if False:",
          "test_readers.py::test_bad_csv_is_refused"),
    Guard(READERS, "paths that leave their root", "paths.py",
          "if leaves or not (links or path.resolve().is_relative_to(Path(root).resolve())):", "if False:",
          "test_readers.py::test_paths_that_leave_their_root_are_refused"),
    Guard(READERS, "AURORA's images lie below its root", "datasets/aurora.py", "path = inside(root, item[key])",
          "path = Path(root) / item[key]",
          "test_aurora.py::test_images_outside_the_root_and_items_without_a_task_are_set_aside"),
    Guard(READERS, "frames are written below the root", "datasets/something.py", "inside(root, str(path), links=False)",
          "Path(root) / path", "test_something.py::test_frames_are_never_written_outside_the_root"),
    Guard(READERS, "predictions lie in their folder", "evaluation/systems/image_folder.py",
          'if "\\0" in str(path) or not path.resolve().is_relative_to(root.resolve()):', "if False:",
          "test_image_folder.py::test_names_do_not_lead_out_of_the_folder"),
    Guard(READERS, "each folder once", "paths.py",
          "if (known := read.setdefault((found.st_dev, found.st_ino), folder)) is not folder:",
          "if (known := read.setdefault(folder, folder)) is not folder:",
          "test_video_files.py::test_each_real_folder_is_read_once"),
    Guard(READERS, "names of any bytes", "quarantine.py", ', errors="backslashreplace"', "",
          "test_readers.py::test_a_quarantine_takes_names_of_any_bytes"),
    Guard(READERS, "frames are whole numbers", "datasets/doundo_bench.py",
          "if isinstance(number, bool) or (isinstance(number, float) and not number.is_integer()):", "if False:",
          "test_reader_properties.py::test_a_frame_that_is_no_whole_number_is_set_aside"),
    Guard(READERS, "whole numbers in digits", "datasets/epic_kitchens.py",
          'if not re.fullmatch(r"[0-9]+", text.strip()):', "if False:",
          "test_reader_properties.py::test_a_cell_that_python_alone_would_read_is_refused"),
    Guard(READERS, "lists of one type", "datasets/epic_kitchens.py",
          "if not isinstance(found, list | tuple) or not all(type(item) is kind for item in found):", "if False:",
          "test_reader_properties.py::test_a_cell_that_python_alone_would_read_is_refused"),
    Guard(READERS, "brackets without end", "datasets/doundo_bench.py", ", RecursionError, MemoryError", "",
          "test_reader_properties.py::test_a_prompt_that_only_looks_like_a_list_is_text"),
    Guard(READERS, "a particle behind its object", "mining/inverse_text.py",
          "if thing and spoken[-1:] == place[:1] and place[0] not in _SIDES:", "if False:",
          "test_reversible.py::test_inverse_narrations"),
    # ------------------------------------------------------------ results
    Guard(RESULTS, "one number changed", "reporting/provenance.py",
          "return output if recorded != (sha256(place) if of_content else output_digest(place)) else None",
          "return None",
          "test_edited_results.py::test_one_number_changed_by_hand_is_said_beside_all_that_is_made_of_it"),
    Guard(RESULTS, "a row twice", "result_tables.py", "if keys and (doubled := table.duplicated(keys)).any():",
          "if False:", "test_edited_results.py::test_doubled_rows_are_refused_with_and_without_a_lock"),
    Guard(RESULTS, "rows cut", "reporting/results.py", "                check_whole(name, table)\n",
          "                pass\n",
          "test_edited_results.py::test_the_other_tables_miss_their_last_rows_too"),
    Guard(RESULTS, "names changed", "reporting/results.py",
          "            if unknown := set(table[column]) - set(words[column]):\n",
          "            if unknown := set():\n",
          "test_edited_results.py::test_cut_and_renamed_rows_are_refused_where_the_lock_has_another_hash"),
    # ------------------------------------------------------------ environment
    Guard(ENVIRONMENT, "docstrings, which say what a command does", "cli.py",
          "return sys.flags.optimize > 1 or read_as", "return read_as",
          "test_cli.py::test_a_shell_that_has_python_drop_docstrings_changes_no_command"),
    Guard(ENVIRONMENT, "another encoding", "cli.py", ' or read_as != "utf-8" or "PYTHONIOENCODING" in os.environ', "",
          "test_cli.py::test_a_shell_of_another_encoding_is_left_behind"),
    Guard(ENVIRONMENT, "a git hook's repository", "cli.py", "        os.environ.pop(name, None)\n", "        pass\n",
          "test_cli.py::test_a_git_hook_s_repository_is_not_taken_for_the_checkout"),
    Guard(ENVIRONMENT, "what is not listed stays outside", "pipeline/arithmetic.py",
          "            and (name in named or any(fnmatchcase(name, pattern) for pattern in patterns))}", "}", FOREIGN),
    Guard(ENVIRONMENT, "what would change results never passes", "pipeline/arithmetic.py",
          "never, named = set(left_out(environment)), set(named)", "never, named = set(), set(named)",
          "test_arithmetic.py::test_nothing_that_changes_results_is_listed_or_let_through_by_name"),
    Guard(ENVIRONMENT, "and that is said", "pipeline/arithmetic.py", "    if never:\n", "    if False:\n",
          "test_arithmetic.py::test_what_would_change_results_is_left_out_and_said"),
    Guard(ENVIRONMENT, "the locale, seeds of hashes", "pipeline/arithmetic.py",
          'return kept | SET | {"TMPDIR": folder}', 'return SET | kept | {"TMPDIR": folder}',
          "test_arithmetic.py::test_what_is_set_is_the_same_whatever_the_shell_says"),
    Guard(ENVIRONMENT, "no proxy before this machine", "pipeline/arithmetic.py",
          "joined = \",\".join(dict.fromkeys([*hosts, *LOOPBACK]))", "joined = \",\".join(dict.fromkeys(hosts))",
          "test_arithmetic.py::test_proxies_never_stand_before_this_machine"),
    Guard(ENVIRONMENT, "short folders for sockets", "pipeline/arithmetic.py",
          "short = len(os.fsencode(folder)) <= LONGEST_TMPDIR", "short = True",
          "test_arithmetic.py::test_a_folder_for_scratch_files_is_short_and_writable"),
    Guard(ENVIRONMENT, "a job is no rank of another", "training/engine/worker.py",
          "for name in left_out(os.environ):", "for name in ():",
          "test_launch.py::test_a_job_of_its_own_is_no_rank_of_another_job_whatever_the_shell_says"),
    Guard(ENVIRONMENT, "a container's quota", "compute/pool.py", "int(min(count, cpu_quota()))", "int(count)",
          "test_parallel.py::test_no_more_processes_run_than_the_quota_allows"),
    Guard(ENVIRONMENT, "no proxy before a local judge", "endpoint/client.py", "trust_env=trusted", "trust_env=True",
          "test_endpoint_secrets.py::test_a_proxy_of_the_environment_never_sees_what_is_local"),
    # ------------------------------------------------------------ late guards
    Guard(LATE, "the parent is watched from the first instruction", "pipeline/processes.py",
          "        _follow_dvc()\n", "        pass\n",
          "test_runner_guards.py::test_the_runner_ends_with_dvc_while_it_still_imports"),
    Guard(LATE, "a parent that is gone already", "pipeline/processes.py",
          "if not started or started > _read_start(os.getpid()):", "if False:",
          "test_runner_guards.py::test_a_runner_whose_dvc_is_gone_before_its_first_instruction_does_not_start"),
    Guard(LATE, "DVC ends with the command that started it", "pipeline/run_stages.py",
          ", preexec_fn=partial(end_with, os.getpid())", "",
          "test_runner_guards.py::test_dvc_ends_with_the_command_that_started_it"),
    Guard(LATE, "an early Ctrl-C is a sentence", "pipeline/processes.py",
          "        signal.signal(name, _stop_early)\n", "        pass\n",
          "test_runner_guards.py::test_a_signal_during_the_imports_is_one_sentence"),
    Guard(LATE, "scratch is locked", "pipeline/guards.py", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
          "test_runner_guards.py::test_a_stage_is_run_by_one_runner_at_a_time"),
    Guard(LATE, "what a killed run has left is ended", "pipeline/guards.py",
          'if left := file.read().partition(" ")[2].strip():', 'if left := "":',
          "test_runner_guards.py::test_what_a_killed_run_has_left_is_ended_before_the_stage_runs_again"),
    Guard(LATE, "the true error stays", "pipeline/kernel.py",
          "except Exception as problem:  # whatever a half-written",
          "except OSError as problem:  # whatever a half-written",
          "test_runner_guards.py::test_a_record_that_cannot_be_written_does_not_hide_the_run_s_own_error"),
    Guard(LATE, "a draft is no file", "paths.py", "        draft.unlink(missing_ok=True)\n", "",
          "test_runner_guards.py::test_a_record_is_whole_or_the_old_one"),
    Guard(LATE, "headers have a time-out", "endpoint/client.py", "with _Deadline(self.settings.timeout_s) as deadline:",
          "with _Deadline(9999) as deadline:",
          "test_endpoint_secrets.py::test_headers_that_trickle_run_into_the_time_out", hangs=True),
    # ------------------------------------------------------------ equal runs
    Guard(EQUAL, "no folders of the machine in a quarantine", "quarantine.py",
          "texts = (without_folders(str(text), self.folders) for text in (item, reason))",
          "texts = (str(text) for text in (item, reason))",
          "test_quarantine.py::test_lists_name_no_folder_of_the_machine"),
    Guard(EQUAL, "no widgets in executed notebooks", "pipeline/executed.py",
          '    notebook.metadata.pop("widgets", None)\n', "",
          "test_notebooks.py::test_scrubbing_takes_widgets_and_folders_out_of_whatever_is_text"),
    # ------------------------------------------------------------ judges
    Guard(JUDGES, "a filter is an outcome", "endpoint/replies.py", "    if BLOCKS.search(finish):\n", "    if False:\n",
          "test_endpoint_judge.py::test_every_outcome_is_in_the_table_and_asked_as_often_as_stated"),
    Guard(JUDGES, "no choices is an outcome", "endpoint/replies.py",
          'if not choices and "choices" in body and not error:', "if False:",
          "test_refused_parameters.py::test_a_blocked_item_is_an_outcome_kept_and_not_asked_again"),
    Guard(JUDGES, "no content is asked again", "endpoint/replies.py",
          'if not text.strip() and (finish == "length" or isinstance(content, str)):', "if not text.strip():",
          "test_endpoint_judge.py::test_every_outcome_is_in_the_table_and_asked_as_often_as_stated"),
    Guard(JUDGES, "masked keys", "endpoint/secrets.py", "return _MASKED.sub(blot, text)", "return text",
          "test_endpoint_secrets.py::test_a_masked_key_reaches_no_reason"),
    Guard(JUDGES, "encoded keys", "endpoint/secrets.py",
          "for form in sorted(set(_spellings(key)), key=len, reverse=True):",
          "for form in (key,):", "test_endpoint_secrets.py::test_no_spelling_of_the_key_comes_through"),
    Guard(JUDGES, "hosts of secrets", "endpoint/secrets.py",
          "if is_loopback(host) or known.get(variable) == host or host in named:", "if True:",
          "test_endpoint_secrets.py::test_a_host_that_nobody_named_gets_no_request"),
    Guard(JUDGES, "control characters in addresses", "endpoint/settings.py",
          'if re.search(r"[\\s\\x00-\\x1f\\x7f]", self.base_url):', "if False:",
          "test_endpoint_secrets.py::test_an_address_with_control_characters_is_refused"),
    Guard(JUDGES, "redirects are not followed", "endpoint/client.py", "trust_env=trusted",
          "trust_env=trusted, follow_redirects=True",
          "test_endpoint.py::test_what_no_request_survives_stops_the_run_at_once"),
    # ------------------------------------------------------------ the human study
    Guard(STUDY, "the secret goes into the draw", "human_study/plan.py",
          'f"{secret}:{study.settings.seed}:{what}" if secret else f"{study.settings.seed}:{what}"',
          'f"{study.settings.seed}:{what}"',
          "test_human_blind.py::test_who_has_code_items_seed_and_number_names_systems_as_chance_has_it"),
    Guard(STUDY, "images of one size", "human_study/pictures.py",
          "ImageOps.pad(load(path), self._box_of(item), Image.Resampling.LANCZOS, _BARS)",
          "load(path)",
          "test_human_blind.py::test_images_of_an_item_have_one_size_whatever_their_maker_gave"),
    Guard(STUDY, "files are their owner's alone", "human_study/study_store.py",
          "        _make_private(self.path)\n", "",
          "test_human_blind.py::test_what_the_study_keeps_is_its_owner_s_alone"),
    Guard(STUDY, "sessions are bounded", "human_study/study_store.py",
          'if connection.execute("SELECT COUNT(*) FROM annotators").fetchone()[0] >= MAX_ANNOTATORS:',
          "if False:",
          "test_human_blind.py::test_sessions_are_bounded_in_all_and_from_one_address"),
    Guard(STUDY, "guesses are slowed", "human_study/app.py",
          "if limit.is_reached(_read_address(request)):", "if False:",
          "test_human_blind.py::test_guesses_are_slowed"),
    Guard(STUDY, "connections say their headers", "human_study/connections.py",
          "self._timer = self.loop.call_later(self.header_seconds, self.transport.close)", "pass",
          "test_human_blind.py::test_connections_that_never_say_their_headers_are_closed", hangs=True),
    # ------------------------------------------------------------ the campaign itself
    Guard(CAMPAIGN, "a library's error does not hold", TORTURE,
          'if own or ("/src/visdyn/" in last and not isinstance(error, FOREIGN)):', "if True:",
          "test_torture.py::test_only_own_words_hold"),
    Guard(CAMPAIGN, "what hangs does not hold", TORTURE, 'return f"hangs for {SECONDS} s"', 'return ""',
          "test_torture.py::test_what_hangs_does_not_hold"),
    Guard(CAMPAIGN, "a failure is the exit status", TORTURE,
          "return int(any(count.failures for name, count in counts.items() if name not in OPEN))", "return 0",
          "test_torture.py::test_a_table_is_printed_and_a_failure_of_a_closed_family_is_the_exit_status"),
    Guard(CAMPAIGN, "other bytes after a kill", "../../tests/repro_runs.py",
          "differ += find_differences(wanted, made)", "pass",
          "test_repro_runs.py::test_a_run_that_was_killed_is_run_again_and_compared"),
)  # fmt: skip


class GuardError(Exception):
    """An entry of the table does not fit the sources or the tests."""


def break_source(guard: Guard, source: str) -> str:
    """Return a file's text with the guard off.

    Raises:
        GuardError: its words stand there never, or more than once.
    """
    if (count := source.count(guard.old)) != 1:
        raise GuardError(f"{guard.file} has {guard.old[:60]!r} {count} times, not once; mend the entry {guard.name!r}")
    return source.replace(guard.old, guard.new)


def make_scratch(folder: Path) -> Path:
    """Copy the package below a folder that looks like the checkout; return the package."""
    for entry in ROOT.iterdir():
        if entry.name not in ("src", "tests", ".visdyn"):
            (folder / entry.name).symlink_to(entry)
    for name in ("src/visdyn", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "src/visdyn"


def load_libraries() -> None:
    """Import what most tests wait for, once: each test then runs in a fork of this process, without the package."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    for name in LIBRARIES:
        importlib.import_module(name)
    if "visdyn" in sys.modules:
        raise GuardError("the package was imported before a guard of it was switched off")


def run_tests(folder: Path, test: str, seconds: float = SECONDS) -> str:
    """Run a test on the package in `folder`; return "passed", "failed", or what happened otherwise."""
    pid = os.fork()
    if not pid:
        _run_forked(folder, test)
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"
        time.sleep(0.1)
    status = os.waitstatus_to_exitcode(ended[1])
    return {0: "passed", 1: "failed"}.get(status, f"pytest ended with {status}")


def _run_forked(folder: Path, test: str) -> NoReturn:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.chdir(folder)
    os.environ.pop("VISDYN_ROOT", None)
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.path.insert(0, str(folder / "src"))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    os._exit(int(pytest.main([*options, str(folder / "tests" / test)])))


def main(arguments: list[str] | None = None) -> int:
    """Print what was tried and what was caught; return 1 where a guard could be switched off unseen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only guards with one of these in family, name or file"
    )
    parser.add_argument("--trust", action="store_true", help="do not run each test on the sources as they are first")
    parser.add_argument("--write", action="store_true", help="put the numbers into docs/reliability.csv and its page")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="a run that was ended is gone on with by this file")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that one test may take (default: 240)")
    options = parser.parse_args(arguments)
    described = {guard: f"{guard.family} {guard.name} {guard.file}" for guard in GUARDS}
    chosen = [guard for guard in GUARDS if any(word in described[guard] for word in options.words or [""])]
    caught, began, commit = 0, time.monotonic(), find_commit()
    unbroken: dict[str, tuple[str, float]] = {}  # what came of a test on the sources as they are, and its seconds
    kept = read_kept(options.keep, commit)
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="guards-") as temporary:
        package = make_scratch(Path(temporary))
        for guard in chosen:
            told, limit = kept.get(described[guard], ""), options.seconds
            if not (told or options.trust):
                if guard.test not in unbroken:
                    start = time.monotonic()
                    told = run_tests(Path(temporary), guard.test, seconds=options.seconds)
                    unbroken[guard.test] = told, time.monotonic() - start
                told, took = unbroken[guard.test]
                told = "" if told == "passed" else f"on the sources as they are: {told}"
                limit = min(limit, 30 + 5 * took) if guard.hangs else limit
            if not told:
                told = try_guard(guard, package, limit)
                if options.keep:
                    with open(options.keep, "a", encoding="utf-8") as file:
                        print(commit, described[guard], told, sep="\t", file=file)
            seen = told == "failed" or (guard.hangs and told == "hung")
            caught += seen
            mark = "caught" if seen else "NOT CAUGHT"
            print(f"{mark:<11}{guard.family}: {guard.name} ({guard.test}: {told})", flush=True)
    if options.write and not options.words:
        write_results([Result("guards switched off", len(chosen), caught, "all", 0, commit)])
    print(f"{len(chosen)} guards switched off, {caught} seen by a test, in {time.monotonic() - began:.0f} s")
    return int(caught < len(chosen))


def read_kept(path: Path | None, commit: str) -> dict[str, str]:
    """Return what came of the guards that an earlier run of the same commit has tried; nothing of changed sources."""
    if path is None or not path.exists() or commit.endswith("+"):
        return {}
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {guard: told for made_with, guard, told in rows if made_with == commit}


def try_guard(guard: Guard, package: Path, seconds: float) -> str:
    """Run a guard's test with the guard off; return what came of it."""
    path = package / guard.file
    source = path.read_text(encoding="utf-8")
    try:
        _write_source(path, break_source(guard, source))
        return run_tests(package.parents[1], guard.test, seconds=seconds)
    except GuardError as error:
        return str(error)
    finally:
        _write_source(path, source)


def _write_source(path: Path, source: str) -> None:
    path.write_text(source, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):  # Python compares sizes and seconds only
        compiled.unlink()


if __name__ == "__main__":
    sys.exit(main())
