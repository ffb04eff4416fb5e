"""Draw Figure 9: how the weight of affine regularisation decays (Eq. 13), as `avsm` computes it."""

import numpy as np
import pandas as pd

from avsm.affine import affine_regularisation_weight
from avsm.files import write_text
from workflow.job import start_log
from workflow.referee.curves import draw_weight

start_log(snakemake.log[0])
output, epochs = snakemake.output, np.arange(0, 30.5, 0.5)
weights = [affine_regularisation_weight(epoch) for epoch in epochs]
table = pd.DataFrame({"epoch": epochs, "lambda_ar": weights})
write_text(output.csv, table.to_csv(index=False))
draw_weight(table, snakemake.input.style, [output.png, output.pdf])
