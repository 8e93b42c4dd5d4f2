"""A defense: settings, a card, and one method."""

from pydantic import Field

from elixir_plugin import Case, Context, Defense, Outcome, Settings
from elixir_plugin.defense import Card
from elixir_plugin.training import Recipe, Samples, ShuffledBatches, train


class FineTuneSettings(Settings):
    epochs: int = Field(10, ge=1, le=1000)
    lr: float = Field(0.01, gt=0, le=1)


class FineTune(Defense):
    """Go on training the suspect model on the reserved clean set."""

    name = "my_finetune"
    kind = "repair"
    needs = frozenset({"model", "clean"})
    Settings = FineTuneSettings
    card = Card("Fine-tuning", "folklore", 2017, "weakens simple backdoors", "one epoch per epoch", "often too weak")

    def defend(self, case: Case, context: Context) -> Outcome:
        model = case.model.clone().to(context.device)  # what comes in is never changed
        recipe = Recipe(epochs=self.settings.epochs, lr=self.settings.lr, batch_size=32)
        batches = ShuffledBatches(Samples(case.clean, context.device), 32, context, recipe.augmentation, self.name)
        with context.stage("fine-tune"):  # timed, and shown in the report
            curves = train(model, batches, recipe, context, name=self.name)
        return Outcome(model=model, curves=curves)
