"""Estimate what the run will cost, and print it."""

from avsm.settings import recipe_preset
from workflow.job import start_log
from workflow.plan import Item, estimate, formatted, notes
from workflow.referee.fairness import changed_parameters, labelled
from workflow.referee.render import markdown


def method_item(method: dict) -> Item:
    """Return what a method costs."""
    gpu, changed = method["params"].get("device", "cpu") != "cpu", changed_parameters(method)
    counts = "directed pairs", method["pairs"], method["jobs"]
    return Item(method["label"], *counts, method["cost"], gpu, True, changed)


def network_item(network: dict) -> Item:
    """Return what a training costs; its cost is that of a whole pair, by preset."""
    params, cost = network["params"], network["cost"]
    counted = "training", 1, 1, None
    if cost:
        recipe = recipe_preset(params["preset"]).change(params["settings"])
        stage = getattr(recipe.continued() if network["start"] else recipe, cost["stage"])
        counted = "training pairs", stage.epochs * stage.batches, 1, cost[params["preset"]]
    return Item(labelled(network), *counted, params.get("device", "cpu") != "cpu", False, "")


start_log(snakemake.log[0])
params = snakemake.params
items = [*map(network_item, params.networks), *map(method_item, params.methods)]
table = estimate(items, params.size, params.cores)
lines = notes(table, params.scans, params.size, params.cores)
print(markdown({"": formatted(table)}, lines))
