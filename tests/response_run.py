"""A run of system `perturb` that takes a second."""

SMALL = (
    "--system=perturb", "--data.sets.size=6", "--data.sets.per_batch=3", "--width=8", "--depth=1",
    "--attention.heads=2", "--sampling=2", "--latent_steps=2", "--extractor.k=2", "--backbone.frame.heads=2",
    "--backbone.frame.neighbours=3", "--backbone.frame.latent_bottleneck=4", "--train.steps=3", "--train.warmup=1",
    "--metrics=pearson_delta,mse", "--no-report", "-q",
)  # fmt: skip
