"""TAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.parity.fixture import Fixture, Tensors, below
from benchmarks.parity.training import gradients, paces, steps_of
from capt_core.backbone.loading import Backbone
from capt_core.learning.averaging import gaussian_weights
from capt_core.learning.loop import Batch, Loop, Record
from capt_core.learning.optimisation import ParameterGroup
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.tap.bags import SentenceBags
from capt_core.methods.tap.method import TAP
from capt_core.methods.tap.model import AttributeClip, VisionExperts
from capt_core.methods.tap.settings import Phase, TapSettings, alternation
from capt_core.methods.tap.training import AlternatingAverage, AlternatingLoss, head_losses

NOISE = ("*/pool.*.key.bias",)
"""A key's bias cancels in the softmax, and AdamW makes steps of what rounding leaves of it."""

_POOLING = ("query.weight", "query.bias", "key.weight", "key.bias")
_SAMPLED = "sampled_sentence_"


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of TAP."""
    return "trainable/vision_prompts_deep" in fixture.weights


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What TAP gives, and the starts of what it trains, by name."""
    backbone, start = fixture.backbone("clip"), fixture.below("trainable/")
    trained = [*fixture.config["trainable_vision"], *fixture.config["trainable_text"]]
    if sorted(trained) != sorted(start):
        raise KeyError("other tensors are trained than those that are named")
    case = _Case(fixture, backbone)
    found = case.forward()
    for name in fixture.expected:
        if name.startswith("published_weights/"):
            epochs = len(fixture.expected[name])
            found[name] = gaussian_weights(epochs, 0.9 * epochs, 0.2 * epochs)
    found |= _below("vision_phase", case.phase(text=False))
    found |= _below("text_phase", case.phase(text=True))
    found |= _below("alternation", case.alternation())
    starts = _below("alternation/final", start)
    for phase in ("vision_phase", "text_phase"):
        starts |= _below(f"{phase}/param_after{case.steps(phase)}", start)
    for name in fixture.expected:
        tensor = name.removeprefix("alternation/").partition("_after_epoch")[0]
        if name.startswith("alternation/") and tensor in start:
            starts[name] = start[tensor]
    return found, starts


class _RecordedOrder(TapSettings):
    """Settings whose epochs take turns as was recorded, where that is another pace than ours."""

    order: tuple[bool, ...] = ()

    @property
    def phases(self) -> list[Phase]:
        done = {False: 0, True: 0}
        found = []
        for text in self.order:
            done[text] += 1
            found.append(Phase(text, done[text]))
        return found or super().phases


class _RecordedLoss(AlternatingLoss):
    """Takes the sentences that the reference drew, one set for each text step.

    Rows of a recorded draw are those of the attributes, then of the class.
    """

    draws: Sequence[torch.Tensor] = ()

    def drawn(self, used: torch.Tensor) -> torch.Tensor:
        return self.draws[self.phase.epoch - 1].roll(1, dims=0)


class _Case:
    """A fixture's model, made anew for each part of what is expected."""

    def __init__(self, fixture: Fixture, backbone: Backbone) -> None:
        self.fixture, self.backbone = fixture, backbone
        self.config, self.inputs = fixture.config, fixture.inputs
        self.heads = ["cls", *(f"attr{index}" for index in range(self.config["attributes"]))]
        self.epochs = self.config.get("vision_epochs", 50), self.config.get("text_epochs", 10)
        self.images, self.labels = self.inputs["train_images"], self.inputs["train_labels"]
        self.zero_shot = backbone.clip.encode_text(self.inputs["template_tokens_base"])

    def steps(self, phase: str) -> int:
        """How many steps of one phase by itself were recorded."""
        return steps_of(self.fixture, f"{phase}/lr", 3)

    def settings(
        self, vision_epochs: int, text_epochs: int, order: Sequence[bool] = ()
    ) -> TapSettings:
        config = self.config
        found = _RecordedOrder.model_validate(
            {
                **paces(self.fixture),
                "order": tuple(order),
                "batch_size": len(self.labels),
                "learning_rate": config["vision_lr"],
                "text_learning_rate": config["text_lr"],
                "length_quantile": config["length_quantile"],
                "class_weight": config["alpha"],
                "image_weight": config["u1"],
                "logits_weight": config["u2"],
                "contrast_weight": config["u3"],
                "text_classes": max(2, len(self.zero_shot)),
                "text_epochs": text_epochs,
            }
        )
        # Not validated: without vision epochs the text phase is trained by itself.
        return found.model_copy(update={"epochs": vision_epochs})

    def fitted(self, settings: TapSettings) -> AttributeClip:
        start = {name: value.clone() for name, value in self.fixture.below("trainable/").items()}
        pooling = [
            torch.stack([start[f"pool.{head}.{part}"] for head in self.heads]) for part in _POOLING
        ]
        tokens, deep = start["vision_prompts_input"][0], start["vision_prompts_deep"]
        experts = VisionExperts(tokens, deep, *pooling)
        return AttributeClip(TAP(settings), self.backbone, start["ctx"], experts)

    def named(self, fitted: AttributeClip) -> Tensors:
        """Copies of what is trained, by the names of a fixture."""
        vision = self.named_vision(list(fitted.experts.parameters()))
        return vision | {"ctx": fitted.context[0].detach().clone()}

    def named_vision(self, values: Sequence[torch.Tensor]) -> Tensors:
        """Copies of values of each parameter of the image side, in their order."""
        tokens, deep, *pooling = (value.detach().clone() for value in values)
        found = {"vision_prompts_input": tokens[None], "vision_prompts_deep": deep}
        for part, rows in zip(_POOLING, pooling, strict=True):
            found |= {
                f"pool.{head}.{part}": row for head, row in zip(self.heads, rows, strict=True)
            }
        return found

    def bags(self, half: str) -> SentenceBags:
        heads = []
        for head in self.heads:
            given = below(f"sentences_{half}/{head}/", self.inputs)
            pairs = zip(given["tokens"], given["count"].tolist(), strict=True)
            heads.append([tokens[:count] for tokens, count in pairs])
        return SentenceBags.of(heads, self.config["length_quantile"])

    def logits(self, fitted: AttributeClip, half: str) -> torch.Tensor:
        with torch.no_grad():
            features = fitted.encode(self.inputs["test_images"])
        return fitted.scorer_of(self.bags(half))(features)

    @torch.no_grad()
    def forward(self) -> Tensors:
        """What comes out before the first step."""
        fitted, clip = self.fitted(self.settings(*self.epochs)), self.backbone.clip
        bags, images = self.bags("base"), self.inputs["test_images"]
        count = len(fitted.context[0])
        features = fitted.encode(images).reshape(len(images), len(self.heads), -1)
        sentences = fitted.encode_sentences(bags)
        texts = fitted.experts.pooled(unit(features), unit(sentences), bags.used)
        found = {
            "init/ctx": embedded_words(self.inputs["tokens_ctx_words"][0], count, clip),
            "init/plain_image_features_test": clip.encode_image(images),
            "init/zero_shot_text_features_base": unit(self.zero_shot),
            "forward/cls_feature_test": features[:, 0],
            "forward/prompt_features_test": features[:, 1:],
            "forward/pooled_text_cls": texts[0],
            "forward/pooled_text_attributes": texts[1:].permute(1, 2, 0, 3),
            "eval_start/logits_base": self.logits(fitted, "base"),
        }
        for index, head in enumerate(self.heads):
            # As many places as the fixture has for this head.
            places = self.inputs[f"sentences_base/{head}/tokens"].shape[1]
            used = torch.zeros(len(self.zero_shot), places, dtype=torch.bool)
            most = min(places, bags.used.shape[2])
            used[:, :most] = bags.used[index, :, :most]
            shown = sentences.new_zeros(*used.shape, sentences.shape[-1])
            shown[:, :most] = sentences[index, :, :most] * used[:, :most, None]
            found[f"forward/sentence_features/{head}"] = shown
            found[f"init/used_sentences_base/{head}"] = used.long()
        return found

    def phase(self, text: bool) -> Tensors:
        """The first steps of one phase by itself."""
        name = "text_phase" if text else "vision_phase"
        steps, (vision_epochs, text_epochs) = self.steps(name), self.epochs
        settings = self.settings(0, text_epochs) if text else self.settings(vision_epochs, 1)
        fitted = self.fitted(settings)
        given = below(f"{name}/", self.inputs)
        draws = [given[f"{_SAMPLED}step{step}"] for step in range(steps)] if text else []
        loss = self.loss(fitted, draws)
        loss.begin(Batch(1, 0, [], 1))
        parts = loss.parts(self.images, self.labels)
        total = loss(self.images, self.labels)[0]
        tokens, frozen = loss.image_features(self.images)
        with torch.no_grad():
            sentences = unit(fitted.encode_sentences(loss.bags))
            logits = fitted.head_logits(tokens, sentences, loss.bags.used)
        found = {
            "all_logits": logits,
            "final_logits": fitted.combined(logits),
            "cls_image_features": tokens[:, 0],
            "zero_shot_image_features": frozen,
            "zero_shot_logits": loss.zero_shot_logits(frozen),
            "ce": parts["cross_entropy"],
            "kl_unweighted": parts["logits"] / settings.logits_weight,
            "ce_per_head": head_losses(logits, self.labels),
            "total": total,
        }
        if text:
            both = loss.contrasts(sentences, torch.arange(len(self.zero_shot)))
            found |= dict(zip(("contrast", "contrast_inverse"), both, strict=True))
            found["grad/ctx"] = gradients(total, list(fitted.context))[0]
        else:
            found["image_l1_weighted"] = parts["image"]
            found |= _below(
                "grad", self.named_vision(gradients(total, list(fitted.experts.parameters())))
            )
        average = AlternatingAverage(fitted, settings)
        found |= self.train(loss, average, steps)
        after = self.named(fitted)
        names = self.config["trainable_text" if text else "trainable_vision"]
        return found | {f"param_after{steps}/{each}": after[each] for each in names}

    def alternation(self) -> Tensors:
        """A whole training in miniature, of one batch an epoch."""
        given = below("alternation/", self.inputs)
        draws = [given[f"{_SAMPLED}text_epoch{epoch}"] for epoch in range(len(given))]
        recorded = self.fixture.expected["alternation/phase_is_text"].bool().tolist()
        epochs = len(recorded) - len(draws), len(draws)
        if sum(recorded) != len(draws):
            raise KeyError(f"{sum(recorded)} text epochs, sentences drawn for {len(draws)}")
        ours = [phase.text for phase in alternation(*epochs)]
        settings = self.settings(*epochs, () if recorded == ours else recorded)
        fitted = self.fitted(settings)
        average, found = AlternatingAverage(fitted, settings), Tensors()

        def after_epoch(epoch: int) -> None:
            average.add(epoch)
            after = {
                f"{name}_after_epoch{epoch - 1}": each for name, each in self.named(fitted).items()
            }
            found.update(after)

        log = self.train(self.loss(fitted, draws), average, None, after_epoch)
        return found | {
            "lr": log["lr"],
            "total_per_epoch": log["total_per_step"],
            "phase_is_text": torch.tensor([int(phase.text) for phase in settings.phases]),
            "weights_vision": torch.tensor(average.vision.weights, dtype=torch.float64),
            "weights_text": torch.tensor(average.text.weights, dtype=torch.float64),
            "logits_base": self.logits(fitted, "base"),
            "logits_novel": self.logits(fitted, "novel"),
            **_below("final", self.named(fitted)),
        }

    def train(
        self,
        loss: AlternatingLoss,
        average: AlternatingAverage,
        steps: int | None,
        after_epoch: Callable[[int], None] = lambda _: None,
    ) -> Tensors:
        """Train in place on one batch an epoch; all epochs, or some steps."""

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            loss.begin(batch)
            return loss(self.images, self.labels)

        log = Loop(
            average,
            [ParameterGroup(list(loss.fitted.parameters()))],
            len(self.labels),
            loss_of,
            loss.fitted.method.settings,
            "parity",
            0,
            last_step=steps,
            after_epoch=after_epoch,
        ).fit()
        columns = {"lr": "learning_rate", "total_per_step": "loss"}
        return {
            name: torch.tensor(log.log[column].to_list(), dtype=torch.float64)
            for name, column in columns.items()
        }

    def loss(self, fitted: AttributeClip, draws: Sequence[torch.Tensor]) -> _RecordedLoss:
        found = _RecordedLoss(fitted, self.bags("base"), unit(self.zero_shot), 0)
        found.draws = draws
        return found


def _below(prefix: str, values: Tensors) -> Tensors:
    return {f"{prefix}/{name}": value.detach() for name, value in values.items()}
