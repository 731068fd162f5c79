"""What each stage of a profile has to do, counted from its parameters, and what that takes on a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from visdyn.params import Params
from visdyn.params.dynamics import DynamicsFineTuning
from visdyn.params.evaluation import Comparison, JudgeEntry
from visdyn.params.training import Training
from visdyn.pipeline.plan_facts import NOTHING, Facts, Range
from visdyn.training.engine.launch import Hardware

GIB = 2**30
DECODED_ROWS = 16  # rows that `token_pass` was measured for; more cost more
BASELINES = 5  # copy, oracle, shuffled, blend, blurred
THINKS = 2000  # a judge that may write so many tokens thinks before it answers
PUBLISHED_DATA = {"mining": ("clips", "epic"), "idm": ("aurora",), "spatial": ("spatial",), "doundo": ("questions",)}
# A LoRA step of Anole on an H100 (h100.txt): 15.1 GiB with one sequence, 19.1 with four, layers recomputed.
LORA_BASE, LORA_SEQUENCE = 13.8, 1.33
KEPT_SEQUENCE = 16.0  # GiB a sequence whose activations are kept, by fake tensors at the true size
COMPILED_SEQUENCE = 9.2  # the same of compiled layers, by tests/test_compiled_layers.py
TOKEN_BYTES = 2 * 2 * 4096 * 32  # keys and values of a token of Chameleon-7B in bf16
BAGEL_PARAMETERS = 14.6e9
TOKEN_PARAMETERS = 7.0e9
TRAINED_IN_FULL = 16  # bytes a parameter: bf16 weights and gradients, float32 masters, two moments of Adam


@dataclass(frozen=True)
class Work:
    """A part of a stage.

    Attributes:
        what: with its count.
        seconds: of one GPU or one core.
        place: gpu, core, one (a GPU while the others wait), or once (the stage's own process).
        source: where the rate comes from.
    """

    what: str
    seconds: Range
    place: str
    source: str


@dataclass
class StagePlan:
    """What a stage takes.

    Attributes:
        memory: GiB of each GPU; None where it needs none.
        advice: what to change where that does not fit.
        disk, network: GB that it leaves, and that it fetches.
        requests, dollars: of judges that are paid.
        unknown: what could not be reckoned, in words.
    """

    stage: str
    works: list[Work] = field(default_factory=list)
    memory: Range | None = None
    advice: str = ""
    disk: Range = NOTHING
    network: Range = NOTHING
    requests: Range = NOTHING
    dollars: Range = NOTHING
    unknown: list[str] = field(default_factory=list)

    def seconds(self, place: str) -> Range:
        """Return the seconds of all works of one place."""
        return sum((work.seconds for work in self.works if work.place == place), NOTHING)


class Planner:
    """Counts every stage of one profile on one machine."""

    def __init__(self, params: Params, facts: Facts, hardware: Mapping[str, Hardware]) -> None:
        """Take the parameters, the rates, and the hardware of each stage that trains, by stage."""
        self.params, self.facts, self.hardware = params, facts, hardware
        self.data, self.kitchen = facts.content["data"], facts.content["kitchen"]
        self.small = params.world.kind == "kitchen"
        self.codes = self.kitchen["image_codes"] if self.small else self.data["image_codes"]
        self.chains = len(params.chains)
        self._fetched: set[str] = set()

    def plan(self) -> list[StagePlan]:
        """Return the plan of every stage, in the order of dvc.yaml."""
        return [self._plan_stage(name, count) for name, count in self._counts().items()]

    def _counts(self) -> dict[str, Callable[[StagePlan], None]]:
        return {
            "world": self._world,
            "base_models": self._base_models,
            "base_measures": self._base_measures,
            "probing": self._probing,
            "mining": self._mining,
            "idm": self._idm,
            "idm_evaluation": self._idm_evaluation,
            "annotation": self._annotation,
            "fdm": self._fdm,
            "doundo": self._doundo,
            "verification": self._verification,
            "evaluation": self._evaluation,
            "evaluation_doundo": self._evaluation_doundo,
            "spatial": self._spatial,
            "human_study": self._nothing,
            "recorded": self._nothing,
            "figures": self._figures,
        }

    def _plan_stage(self, name: str, count: Callable[[StagePlan], None]) -> StagePlan:
        plan = StagePlan(name)
        self._add(plan, "start, imports, small steps", 1, "small_stage", "once")
        count(plan)
        if not self.small:
            for part in PUBLISHED_DATA.get(name, ()):
                plan.network += Range.of(self.data["disk_gb"][part])
        plan.disk += plan.network  # what is fetched stays
        return plan

    def _add(self, plan: StagePlan, what: str, amount: float | Range, rate: str, place: str) -> None:
        """Add a work: so many units at a rate that is a time, or that is a throughput."""
        value, unit = self.facts.rate(rate), self.facts.content["rates"][rate]["unit"]
        times = unit.startswith(("s ", "core-s "))
        seconds = Range.of(amount) * value if times else Range.of(amount) / value
        plan.works.append(Work(what, seconds, place, self.facts.source(rate)))

    def _add_products(
        self, plan: StagePlan, what: str, flops: Range, mfu: str = "prefill_mfu", place: str = "gpu"
    ) -> None:
        plan.works.append(Work(what, self.facts.products(flops, mfu), place, self.facts.source(mfu)))

    def _fetch(self, plan: StagePlan, name: str) -> float:
        """Count a checkpoint's weights: fetched by the first stage that names it, read by each; return its GB."""
        size = self.facts.checkpoints.get(name)
        if size is None:
            if not name.startswith("models/"):  # the profile's own are another stage's
                plan.unknown.append(f"the size of {name}")
            return 0.0
        if name not in self._fetched:
            self._fetched.add(name)
            plan.network += size
        self._add(plan, f"reading {name}, {size:.3g} GB", size, "load_weights", "gpu")
        return size

    # ---------------------------------------------------------------- counts that several stages share

    def _aurora_test(self, per_subset: int = 0) -> int:
        every = 5 * self.params.world.aurora_test_per_subset if self.small else self.data["aurora_test"]
        return min(every, 5 * per_subset) if per_subset else every

    def _triplets(self, limits: object, epic: int | None = 0) -> int:
        """Return how many labelled triplets a section's limits leave."""
        if self.small:
            there = dict.fromkeys(
                ("magicbrush", "ag", "something", "kubric"), self.params.world.aurora_train_per_subset
            )
            segments = self.params.world.epic_train
        else:
            there, segments = self.data["aurora_train"], self.data["epic_train"]
        most = {name: getattr(limits, name) for name in there}
        total = sum(count if most[name] is None else min(count, most[name]) for name, count in there.items())
        return total + (segments if epic is None else min(segments, epic))

    def _sequence(self) -> int:
        return 2 * self.codes + self.kitchen["text"] if self.small else self.data["sequence"]

    def _model_flops(self) -> float:
        """Return the FLOPs of a token, forward, by the parameters that it meets (2 each)."""
        if not self.small:
            return 2 * (self.facts.checkpoints.get(self.params.base_models.references.base or "") or 14.0) / 2 * 1e9
        shape = self.params.base_models.base_model
        layer = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size
        return 2.0 * (shape.num_layers * layer + 500 * shape.hidden_size)

    def _train(self, plan: StagePlan, what: str, section: DynamicsFineTuning, triplets: int, runs: int) -> None:
        training = section.training
        steps = training.steps or -(-triplets // training.batch_size) * (training.epochs or 1)
        tokens = float(steps * training.batch_size * self._sequence() * runs)
        told = f"{what}: {runs} run(s) of {steps} steps of {training.batch_size}, {tokens:.3g} tokens"
        if self.small:
            self._add(plan, told, 3 * tokens * self._model_flops(), "cpu_train", "core")
        else:
            self._add(plan, told, tokens, "lora_tokens", "gpu")
            plan.memory = self._lora_memory(section, self.hardware[plan.stage])
            plan.advice = "more trainer.gradient_accumulation_steps, activation_checkpointing: true (hardware file)"

    def _lora_memory(self, section: DynamicsFineTuning, hardware: Hardware) -> Range:
        trainer = hardware.trainer
        ranks = hardware.ranks or self.facts.machine.gpus or 1
        rows = max(1, section.training.batch_size // (ranks * trainer.get("gradient_accumulation_steps", 1)))
        each = LORA_SEQUENCE if trainer.get("activation_checkpointing") else KEPT_SEQUENCE
        each = COMPILED_SEQUENCE if trainer.get("compile_layers") else each
        likely = LORA_BASE + each * rows if section.lora else TOKEN_PARAMETERS * TRAINED_IN_FULL / GIB + each * rows
        return Range(0.95 * likely, likely, 1.15 * likely)

    def _decode(self, plan: StagePlan, what: str, images: float, rows: int) -> None:
        """Count images that are decoded code by code, `rows` at a time."""
        batches = -(-images // rows)
        told = f"{what}: {images:.0f} images of {self.codes} codes, {rows} at a time"
        if self.small:
            self._add(plan, told, batches * self.codes, "cpu_token_pass", "core")
        else:
            more = max(1.0, rows / DECODED_ROWS)
            self._add(plan, told, batches * self.codes * Range(1.0, more, 1.5 * more), "token_pass", "gpu")

    def _write_texts(self, plan: StagePlan, what: str, texts: float, tokens: Range, rows: int) -> None:
        batches = -(-texts // rows)
        told = f"{what}: {texts:.0f} texts, {rows} at a time"
        if self.small:
            self._add(plan, told, batches * tokens, "cpu_token_pass", "core")
        else:
            self._add(plan, told, batches * tokens, "token_pass", "gpu")

    def _score(self, plan: StagePlan, what: str, sequences: float, flops_a_token: float | None = None) -> None:
        """Count sequences that are read once."""
        flops = sequences * self._sequence() * (flops_a_token or self._model_flops())
        told = f"{what}: {sequences:.0f} sequences"
        if self.small:
            self._add(plan, told, flops, "cpu_infer", "core")
        else:
            self._add_products(plan, told, Range(0.8 * flops, flops, 1.3 * flops))

    def _decode_memory(self, rows: int) -> Range:
        likely = LORA_BASE + rows * self._sequence() * TOKEN_BYTES / GIB
        return Range(0.9 * likely, likely, 1.3 * likely)

    def _judge(self, plan: StagePlan, judges: tuple[JudgeEntry, ...], images: Callable[[JudgeEntry], float]) -> None:
        """Count what judges in words are asked; those on this machine cost GPU time, the others dollars."""
        facts = self.facts.content["judge"]
        for judge in judges:
            if judge.kind == "region":
                continue
            asked = images(judge) * judge.repeats
            thinks = judge.sampling.get("max_tokens", 0) >= THINKS or "max_completion_tokens" in judge.sampling
            out = Range.of(facts["thinking_out" if thinks else "tokens_out"])
            if judge.kind == "transformers":
                self._fetch(plan, judge.model)
                self._write_texts(plan, f"judge {judge.name or judge.model}", asked, out, 1)
                continue
            plan.requests += asked
            if judge.price_in or judge.price_out:
                each = Range.of(facts["tokens_in"]) * judge.price_in + out * judge.price_out
                plan.dollars += asked * each * 1e-6
            else:
                plan.unknown.append(f"the price of {judge.name or judge.model} (price_in, price_out)")

    # ---------------------------------------------------------------- stages

    def _nothing(self, plan: StagePlan) -> None:
        """Count nothing but the start."""

    def _figures(self, plan: StagePlan) -> None:
        self._add(plan, "tables, figures, report", 1, "report", "once")

    def _world(self, plan: StagePlan) -> None:
        if self.small:
            world = self.params.world
            frames = 3 * (world.clips_per_dataset + world.dev.clips_per_dataset) * Range.of(self.kitchen["frames"])
            images = 5 * (world.aurora_train_per_subset + world.aurora_test_per_subset) * 2 + 5 * world.epic_train
            self._add(plan, "frames rendered and written", frames + images, "decode_frame", "core")

    def _base_models(self, plan: StagePlan) -> None:
        section = self.params.base_models
        for name in dict.fromkeys(section.references.named.values()):
            self._fetch(plan, name)
        trained = section.references.trained
        for name in ("autoencoder", "clip", "dino", *(["tokenizer"] if "base" in trained else [])):
            if name == "tokenizer" or name in trained:
                training: Training = getattr(section, name)
                self._add(plan, f"{name}: {training.steps} steps", training.steps, "cpu_image_step", "core")
        if "base" in trained:
            base = section.base
            tokens = float(base.steps * base.batch_size * self._sequence() * self.chains)
            told = f"base: {self.chains} run(s) of {base.steps} steps of {base.batch_size}"
            self._add(plan, told, 3 * tokens * self._model_flops(), "cpu_train", "core")
        if "generator" in trained:
            generator = section.generator
            samples = generator.steps * generator.batch_size * self.chains
            self._add(plan, f"generator: {samples} samples", samples, "cpu_bagel_sample", "core")

    def _base_measures(self, plan: StagePlan) -> None:
        self._measure(plan, "test images through every encoder", 6 * self._aurora_test())

    def _measure(self, plan: StagePlan, what: str, images: float) -> None:
        if self.small:
            self._add(plan, f"{what}: {images:.0f} images", images, "cpu_metric_image", "core")
        else:
            self._add(plan, f"{what}: {images:.0f} images", images, "metric_image", "one")

    def _probing(self, plan: StagePlan) -> None:
        section, items = self.params.probing, self._aurora_test()
        kinds, largest = 3 + 2 * section.draws, 0.0
        for name in section.models:
            size = 0.0 if self.small else self._fetch(plan, name)
            largest = max(largest, size)
            runs = self.chains if self.small else 1
            flops = None if not size else 2 * self.facts.content["active"].get(name, size / 2) * 1e9
            self._score(plan, f"{name}, both tasks", 2.0 * items * kinds * runs, flops)
        if not self.small:
            plan.memory = Range(largest, largest + 4, largest + 12)
            plan.advice = "a smaller probing.batch_size, or leave the largest of probing.models out"

    def _mining(self, plan: StagePlan) -> None:
        section = self.params.mining
        if self.small:
            clips = 3 * min(self.params.world.clips_per_dataset, section.clips_per_dataset or 10**9)
            frames = clips * Range.of(self.kitchen["frames"])
            self._add(plan, f"{clips} clips, decoded and measured", frames, "farneback_64", "core")
            return
        clips, frames = sum(self.data["clips"].values()), Range.of(self.data["frames"])
        if section.clips_per_dataset:
            share = sum(min(n, section.clips_per_dataset) for n in self.data["clips"].values()) / clips
            clips, frames = round(share * clips), share * frames
        self._add(plan, f"{clips} clips decoded", frames, "decode_frame", "core")
        rate = "dis_256" if section.flow == "dis" else "farneback_256"
        if section.flow == "dis_fast":
            self._add(plan, "flow of every frame", frames, "farneback_64", "core")
        elif section.first_pass and "quiet_around_peak" not in section.modes:
            self._add(plan, "rough flow of every frame", frames, "farneback_64", "core")
            exact = frames * self.facts.rate("exact_share") * min(1.0, (section.flow_size / 256) ** 2)
            self._add(plan, f"exact flow after a first pass ({self.facts.source('exact_share')})", exact, rate, "core")
        else:
            self._add(plan, "flow of every frame", frames * min(1.0, (section.flow_size / 256) ** 2), rate, "core")
        plan.disk += Range(0.05, 0.15, 0.3) * 2.5 * clips / 1000  # the key-frames as PNGs
        if section.curator != "annotations":
            segments = Range.of(self.data["reversible_train"]) + Range.of(self.data["reversible_test"])
            names = dict.fromkeys([section.filter_model or section.curator, section.expansion_model or section.curator])
            sizes = [self._fetch(plan, name) for name in names]
            batches = segments / section.vlm_batch
            self._add(plan, "the filter's answers", batches * 8, "token_pass", "gpu")
            self._add(plan, "long prompts", batches * Range(60, 90, 150), "token_pass", "gpu")
            plan.memory = Range(max(sizes), max(sizes) + 4, max(sizes) + 10)
            plan.advice = "a smaller mining.expansion_model and filter_model, or mining.curator: annotations"

    def _idm(self, plan: StagePlan) -> None:
        section, limits = self.params.idm, self.params.idm.limits
        self._train(plan, "idm", section, self._triplets(limits, limits.epic), self.chains)
        if section.same_labels:
            own = self._triplets(self.params.fdm.limits)
            self._train(plan, "idm_same_labels", section, own, self.chains)
        self._encode(plan, self._triplets(limits, limits.epic))

    def _encode(self, plan: StagePlan, pairs: int) -> None:
        """Count what the image tokenizer encodes once."""
        if not self.small:
            self._add(plan, f"{pairs} pairs through the image tokenizer, once", pairs, "encode_pair", "gpu")
            plan.disk += 10e-6 * pairs

    def _idm_evaluation(self, plan: StagePlan) -> None:
        models = 2 + self.params.idm.same_labels
        texts = float(models * self._aurora_test() * self.chains)
        tokens = Range(0.3, 0.6, 1.0) * self.params.idm_evaluation.max_new_tokens
        self._write_texts(plan, f"labels of {models} models", texts, tokens, 64 if self.small else 16)
        self._score(plan, "preferences", 5 * texts)
        if name := self.params.idm_evaluation.bert_score:
            self._fetch(plan, name)
        if not self.small:
            plan.memory = self._decode_memory(16)
            plan.advice = "a larger GPU; 16 pairs are decoded at a time"

    def _pairs(self) -> Range:
        if self.small:
            return 3 * self.params.world.clips_per_dataset * Range.of(self.kitchen["pairs_a_clip"])
        return Range.of(self.data["pairs"])

    def _annotation(self, plan: StagePlan) -> None:
        section, pairs = self.params.annotation, self._pairs() * (self.chains if self.small else 1)
        longest = float(section.max_new_tokens)
        tokens = Range(8, min(20, longest), longest)
        self._write_texts(plan, "labels", pairs.likely, tokens, section.batch_size)
        self._score(plan, "reading the pairs", pairs.likely)
        if not self.small:
            self._add(plan, "pairs through the image tokenizer", pairs, "encode_pair", "gpu")
            plan.memory = self._decode_memory(section.batch_size)
            plan.advice = f"annotation.batch_size below {section.batch_size}"

    def _fdm(self, plan: StagePlan) -> None:
        section = self.params.fdm
        supervised = self._triplets(section.limits)
        synthetic = min(3 * self.params.annotation.top_k_per_dataset, round(self._pairs().likely))
        for arm in (*section.arms, *section.first_chain_arms):
            runs = self.chains if arm in section.arms else 1
            mixed = arm.startswith(("synthetic", "weights", "labels"))
            self._train(plan, arm, section, supervised + (synthetic if mixed else 0), runs)
        self._encode(plan, synthetic)
        if not self.small:
            plan.disk += 0.2 * len(section.arms) * self.chains

    def _doundo(self, plan: StagePlan) -> None:
        section, variants = self.params.doundo, len(self.params.doundo.lambdas)
        training = section.training
        samples = float(training.steps * training.batch_size * variants * self.chains)
        told = f"{variants} variant(s), {self.chains} chain(s), {samples:.3g} samples"
        if self.small:
            self._add(plan, told, samples, "cpu_bagel_sample", "core")
            return
        # What trains in full also has gradients of its weights, half as much again as a LoRA's step.
        more = 1.0 if section.adapter == "lora" else Range(1.2, 1.5, 2.0)
        self._add(plan, told, samples * self.data["bagel_sample"] * more, "bagel_step_tokens", "gpu")
        hardware = self.hardware[plan.stage]
        ranks = hardware.ranks or self.facts.machine.gpus or 1
        rows = max(1, training.batch_size // (ranks * hardware.trainer.get("gradient_accumulation_steps", 1)))
        if section.adapter == "lora":
            plan.memory = Range(30, 30 + 2 * rows, 34 + 4 * rows)
            plan.disk += 0.7 * variants * self.chains
        else:
            trained = BAGEL_PARAMETERS if section.adapter == "full" else 0.5 * BAGEL_PARAMETERS
            stage = str(hardware.trainer.get("deepspeed", ""))
            # ZeRO-3 shares all out, ZeRO-2 and 1 the optimiser's state (ZeRO-2 the gradients, too); the weights stay.
            shared = TRAINED_IN_FULL * trained if "zero3" in stage else (TRAINED_IN_FULL - 2) * trained
            whole = 0.0 if "zero3" in stage else 2 * BAGEL_PARAMETERS
            likely = (whole + (shared / ranks if "zero" in stage else shared)) / GIB + 4 * rows
            plan.memory = Range(0.95 * likely, likely, 1.2 * likely)
            plan.disk += (2 * BAGEL_PARAMETERS + 12 * trained) / 1e9 * variants * self.chains
        plan.advice = "hardware zero3 on more GPUs, or doundo.adapter: lora"

    def _verification(self, plan: StagePlan) -> None:
        section = self.params.verification
        items = self._aurora_test(section.items_per_subset)
        runs = len(section.arms) * self.chains * section.repeats
        images = float(items * max(section.candidates) * runs)
        rows = 2 * section.batch_size
        self._decode(plan, f"candidates of {runs} draws of {items} items", images, rows)
        verifiers = 3 + self.params.idm.same_labels
        self._score(plan, f"{verifiers} verifiers", verifiers * images)
        if not self.small:
            self._add(plan, "candidates through the image tokenizer", images, "encode_pair", "gpu")
            plan.memory = self._decode_memory(rows)
            plan.advice = f"verification.batch_size below {section.batch_size}"
            plan.disk += images * 450e-6

    def _evaluation(self, plan: StagePlan) -> None:
        section, items = self.params.evaluation, self._aurora_test(self.params.evaluation.items_per_subset)
        fdm = self.params.fdm
        own = 0
        if "fdm" in section.trained:
            own += len(fdm.arms) * self.chains + len(fdm.first_chain_arms)
        own += self.chains * ("zero_shot" in section.trained)
        rows = 128 if self.small else 16
        self._decode(plan, f"images of {own} runs", float(own * items), rows)
        self._edit(plan, section, items)
        candidates = 0.0
        if "best_of" in section.trained:
            verified, draws = self.params.verification, self._aurora_test(self.params.verification.items_per_subset)
            candidates = float(draws * max(verified.candidates) * len(verified.arms) * self.chains * verified.repeats)
        others = BASELINES + ("tokenizer_ceiling" in section.trained) + len(section.editors) + len(section.api_editors)
        systems = own + others + len(section.imported)
        self._measure(plan, f"metrics of {systems} systems and the candidates", systems * items + candidates)

        def judged(judge: JudgeEntry) -> float:
            if judge.systems:
                return len(judge.systems) * self.chains * items
            return systems * items + candidates

        self._judge(plan, section.judges, judged)
        self._encoders(plan, section)
        if not self.small:
            plan.memory = self._decode_memory(rows)
            plan.advice = "leave the arms' images to a larger card (evaluation.trained: [])"
            plan.disk += systems * items * 450e-6

    def _edit(self, plan: StagePlan, section: Comparison, images: float) -> None:
        """Count the images of other editors."""
        known = self.facts.content["editors"]
        for entry in section.editors:
            self._fetch(plan, entry.model)
            shape = known.get(entry.model)
            if shape is None:
                if "BAGEL" in entry.model and not self.small:
                    self._add(plan, f"{entry.name}: {images:.0f} edits", images, "bagel_edit", "one")
                else:
                    plan.unknown.append(f"the time of {entry.name} (editors in benchmarks/plan.yaml)")
                continue
            evaluations = entry.steps or shape["evaluations"]
            flops = 2e9 * shape["active"] * shape["tokens"] * evaluations * images
            told = f"{entry.name}: {images:.0f} edits of {evaluations} evaluations"
            self._add_products(plan, told, Range(0.8 * flops, flops, 1.5 * flops), "diffusion_mfu", "one")
        for entry in section.api_editors:
            plan.requests += images
            plan.dollars += images * entry.price_per_image

    def _encoders(self, plan: StagePlan, section: Comparison) -> None:
        if not self.small:
            for name in (section.encoders.clip, section.encoders.dino, section.captions.model):
                if name:
                    self._fetch(plan, name)

    def _evaluation_doundo(self, plan: StagePlan) -> None:
        section = self.params.evaluation_doundo
        if self.small:
            there = round(self.params.world.epic_validation * self.kitchen["reversible"])
        else:
            there = self.data["doundo_test"]
        pairs = min(there, section.pairs or there)
        images = float(pairs * len(section.prompts) * (1 + len(section.reverse_from)))
        own = (1 + len(self.params.doundo.lambdas)) * self.chains if "doundo" in section.trained else 0
        rate = "cpu_edit" if self.small else "bagel_edit"
        told = f"{own} generators, {images:.0f} images each"
        self._add(plan, told, own * images, rate, "core" if self.small else "gpu")
        self._edit(plan, section, images)
        systems = own + BASELINES + len(section.editors) + len(section.api_editors) + len(section.imported)
        self._measure(plan, f"metrics of {systems} systems", systems * images)
        self._judge(
            plan,
            section.judges,
            lambda judge: (len(judge.systems) * self.chains if judge.systems else systems) * images,
        )
        self._encoders(plan, section)
        if not self.small:
            editors = [Range.of(known["memory"]) for name, known in self.facts.content["editors"].items()
                       if name in [entry.model for entry in section.editors]]  # fmt: skip
            plan.memory = max([Range(29.7, 41.8, 44), *editors], key=lambda need: need.likely)
            plan.advice = "BAGEL takes 30 GiB for one edit at a time; leave the largest evaluation_doundo.editors out"
            plan.disk += systems * images * 900e-6

    def _spatial(self, plan: StagePlan) -> None:
        section = self.params.spatial
        if self.small:
            questions = self.params.world.spatial
        else:
            benchmarks = {"spatialmqa": section.spatialmqa, "embspatial": section.embspatial}
            questions = sum(self.data[name] for name, given in benchmarks.items() if given)
        asked = float(questions * len(section.models) * (self.chains if self.small else 1))
        if "likelihood" in section.modes:
            self._score(plan, "options", 4 * asked)
        if "generation" in section.modes:
            tokens = Range(0.2, 0.6, 1.0) * section.max_new_tokens
            self._write_texts(plan, "answers in words", asked, tokens, 8)
        if not self.small:
            plan.memory = self._decode_memory(8)
            plan.advice = "spatial.modes: [likelihood]"
