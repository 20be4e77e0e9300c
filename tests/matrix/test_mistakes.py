"""What newcomers write first: an error names the argument, what came, and what to write instead."""

import contextlib
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import checkify

import jsoftmax as js

pytestmark = pytest.mark.one_in(10)

X, W, Y = jnp.linspace(-1, 1, 32).reshape(4, 8), jnp.eye(10, 8), jnp.array([3, 1, 0, 7])
Z = X @ W.T
KEY = jax.random.key(0)
ONE_HOT = np.eye(10, dtype=int)[np.asarray(Y)]
FUNCTIONS = {name: x for name, x in vars(js).items() if inspect.isfunction(x)}
# What cannot be left out besides arrays.
NEEDED = {
    "bi_tempered_loss": {"t1": 0.8, "t2": 1.2},
    "gaussian_softmax": {"num_samples": 9},
    "log_gaussian_softmax": {"num_samples": 9},
    "range_limited_softmax": {"num_samples": 9},
    "sample_classes": {"num_classes": 10, "num_sampled": 4},
    "scalable_softmax": {"scale": 1.0},
    "tempered_softmax": {"t": 1.2},
}


MODULES_OF_MARGINS = ("jsoftmax.margins.", "jsoftmax.losses.of_cosines")


@contextlib.contextmanager
def says(*words):
    """Expect an error with these words."""
    with pytest.raises((TypeError, ValueError, AssertionError, checkify.JaxRuntimeError)) as raised:
        yield
    for word in words:
        assert word in str(raised.value)


def arguments_of(name):
    return list(inspect.signature(FUNCTIONS[name]).parameters)


def taking(*arguments):
    """Return the functions whose arguments begin so."""
    return {
        name: partial(function, **NEEDED.get(name, {}))
        for name, function in FUNCTIONS.items()
        if arguments_of(name)[: len(arguments)] == list(arguments)
    }


def with_option(option):
    """Return calls that lack nothing, of the functions that have an option."""
    known = {"logits": Z, "features": X, "weight": W, "labels": Y, "key": KEY, "k": 2}
    known |= {"student_logits": Z, "teacher_logits": Z, "target_probs": js.softmax(Z)}
    known |= {f"{whose}_features": X for whose in ("student", "teacher")}
    known |= {f"{whose}_weight": W for whose in ("student", "teacher")}
    known |= {"class_counts": jnp.ones(10), "margin": js.curricularface()}
    known |= dict.fromkeys(("losses", "scores", "confidence"), Z[:, 0])
    known |= dict.fromkeys(("same", "known", "correct"), Y > 1)
    known |= {"targets": ONE_HOT, "folds": Y, "n": 3}

    def of(name):
        parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
        given = [known[p.name] for p in parameters if p.default is p.empty and p.kind == 1]
        if name == "binary_cross_entropy":
            given = [Z, ONE_HOT]
        return partial(FUNCTIONS[name], *given, **NEEDED.get(name, {}))

    return {name: of(name) for name in FUNCTIONS if option in arguments_of(name)}


def over(table):
    return pytest.mark.parametrize("name", table)


def sharded(*given, **options):
    mesh = jax.make_mesh((1,), ("data",))
    axes = {"batch_axis": "data", "class_axis": None, "num_classes": 10}
    return js.sharded_linear_loss(mesh, **axes, **options)(*given)


ON_LOGITS = {k: f for k, f in taking("logits", "labels").items() if k != "binary_cross_entropy"}


@over(ON_LOGITS)
def test_labels(name):
    loss = ON_LOGITS[name]
    with says("`labels`: ", "got (4, 10). Write labels.a", " for one-hot rows"):
        loss(Z, ONE_HOT)
    with says("`labels`: ", "got dtype bool. Write ", "labels.astype(float) for one-hot rows"):
        loss(Z, ONE_HOT.astype(bool))
    with says("`labels`: ", "got (4, 1). Write labels[..., 0]"):
        loss(Z, Y[:, None])
    with says("`labels`: ", "Write labels.astype(int) for class numbers"):
        loss(Z, Y.astype(float))
    with says("`labels`: "):
        loss(Y, Z)

    with says("`labels`: ", "If the classes are along axis 0, write axis=0."):
        loss(Z.T, Y)


@over(ON_LOGITS)
def test_arguments_that_there_are_not(name):
    options = arguments_of(name)
    of_classes = ["Weights of classes are `class_weight`"] if "class_weight" in options else []
    with says(f"'weight'. It is {name}(logits, labels, ", *of_classes):
        ON_LOGITS[name](Z, Y, weight=jnp.ones(10))
    of_examples = ["A mask of examples is `sample_weight`"] if "sample_weight" in options else []
    with says(f"'mask'. It is {name}(logits, labels, ", *of_examples):
        ON_LOGITS[name](Z, Y, mask=jnp.ones(4))
    if "where" in options:
        with says("`where`: ", "of examples: `sample_weight`"):
            ON_LOGITS[name](Z, Y, where=Y > 0)


def test_options_of_the_loss():
    for head in (js.linear_loss, sharded):
        with says("'label_smoothing'", "loss=functools.partial(js.nll, label_smoothing=...)"):
            head(X, W, Y, label_smoothing=0.1)


@over([name for name, x in FUNCTIONS.items() if x.__module__.startswith(MODULES_OF_MARGINS)])
def test_numbers_of_margins_that_there_are_not(name):
    with says(f"'units'. It is {name}("):
        FUNCTIONS[name](units="degrees")


def test_static_options_under_jit():
    with says("`k`: expected an integer", "name it in static_argnames"):
        jax.jit(js.top_k_accuracy)(Z, Y, k=2)
    with says("`far`: expected static numbers", "name it in static_argnames"):
        jax.jit(js.verification_rates)(X, Y, far=0.1)


def test_labels_of_features_that_were_flattened():
    with says("`labels`: ", "Write labels.reshape((4,))"):
        js.linear_cross_entropy(X, W, Y.reshape(2, 2))


HEADS = {k: f for k, f in taking("features", "weight", "labels").items() if k != "nearest_center"}
HEADS |= {
    "linear_top_k": lambda x, w, _: js.linear_top_k(x, w, 2),
    "linear_sample": lambda x, w, _: js.linear_sample(KEY, x, w),
    "the student's": lambda x, w, _: js.linear_distillation_loss(x, w, X, W),
    "the teacher's": lambda x, w, _: js.linear_distillation_loss(X, W, x, w),
    "sharded_linear_loss": sharded,
}


@over(HEADS)
def test_weights(name):
    with says("weight`: ", "(8, 10). Of a kernel, ", "write kernel.T"):
        HEADS[name](X, W.T, Y)
    with says("weight`: expected an array", "got Linear. ", "write layer.kernel[...].T"):
        HEADS[name](X, nnx.Linear(8, 10, rngs=nnx.Rngs(0)), Y)
    with says("weight`: expected an array of numbers, got dict"):
        HEADS[name](X, {"kernel": W.T}, Y)
    with says("weight`: ", "The arguments are features, weight, labels"):
        HEADS[name](X, W[:, :7], Y)


@over(["linear_loss", "linear_cross_entropy", "linear_stats"])
def test_arguments_in_another_order(name):
    with says("`labels`: ", "expected shape (10,), got (4,). The arguments are features, weight"):
        FUNCTIONS[name](W, X, Y)


@over(taking("key"))
def test_keys(name):
    function = taking("key")[name]
    known = {"labels": (Y,), "logits": (Z,), "shape": ((4,),), "features": (X, W)}
    others = known.get(arguments_of(name)[1], (js.auroc, X))
    with says("`key`: expected a key such as jax.random.key(0), as the first argument, got int"):
        function(0, *others)
    with says("`key`: ", ", as the first argument, got an array of "):
        function(X, KEY, *others[1:])
    if name not in ("elastic_margin", "bootstrap_interval"):
        with says("missing 1 required", f"It is {name}(key, "):
            function(X, W) if name == "linear_sample" else function(X)


@over(with_option("axis"))
def test_options_in_the_place_of_the_axis(name):
    with says("`axis`: ", "got 1.3. Other options are given by name"):
        with_option("axis")[name](axis=1.3)


@over(with_option("reduction"))
def test_reductions(name):
    with says('`reduction`: expected "mean", "sum" or None, got \'avg\''):
        with_option("reduction")[name](reduction="avg")


MARGINS = {
    js.arcface: "got arcface. Call it: margin=arcface()",
    js.AngularMargin: "got AngularMargin. Call it: margin=AngularMargin()",
    js.uniface(): "got MarginAndLoss. Write head.loss for the loss, and margin=head.margin",
    0.5: "got float. Write margin=js.arcface(), and its numbers in that call",
    "arcface": "got str. Write margin=js.arcface()",
    (0.5, 64.0): "got tuple. A margin of your own is a dataclass",
}


@over([name for name in with_option("margin") if name.startswith("linear_")])
@pytest.mark.parametrize("margin", MARGINS)
def test_margins_that_are_none(name, margin):
    with says("`margin`: expected a margin such as arcface(), ", MARGINS[margin]):
        with_option("margin")[name](margin=margin)


@over(["sub_center", "inter_top_k"])
def test_margins_around_what_is_none(name):
    with says("`margin`: expected a margin such as ", "Call it: margin=arcface()"):
        FUNCTIONS[name](js.arcface)


LOSSES = {
    js.focal_loss: "got focal_loss(logits, labels, ",
    js.cross_entropy: "It is one of logits and labels: write js.nll.",
    optax.softmax_cross_entropy: "missing a required argument: 'labels'",
    "focal": "got str. Write loss=js.focal",
    0.5: "got float. A loss is handed over, not called",
    js.arcface(): "got a margin. Write margin=arcface(margin=0.5, scale=64.0)",
    js.uniface(): "got MarginAndLoss. Write head.loss, and margin=head.margin",
    lambda stats, advantage: advantage * stats.prob: "What it needs besides goes to `loss_args`",
}


@pytest.mark.parametrize(
    "head", [js.linear_loss, lambda x, w, y, loss: sharded(x, w, y, loss=loss)]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_that_are_none(head, loss):
    with says("`loss`: expected a function of LogitStats such as js.focal", LOSSES[loss]):
        head(X, W, Y, loss)


@over(["nll", "focal", "poly1", "gce", "mae", "sce"])
def test_losses_that_are_called(name):
    loss, write = FUNCTIONS[name], f"As `loss` write js.{name}"
    with says(f"'stats'. It is {name}(stats", write):
        loss()
    with says(f"2 were given. It is {name}(stats", write):
        loss(Z, Y)
    with says("`stats`: expected LogitStats, got ", "logit_stats(logits, labels)"):
        loss(Z)
    if len(arguments_of(name)) > 1:
        with says(f"functools.partial(js.{name}, "):
            loss()


DEGREES = {
    "arcface": ("margin", js.arcface),
    "angular_margin": ("m2", partial(js.angular_margin, 1.0)),
    "combined_margin": ("m2", partial(js.combined_margin, 1.0)),
    "curricularface": ("margin", js.curricularface),
    "arcnegface": ("margin", js.arcnegface),
    "mv_softmax": ("margin", partial(js.mv_softmax, target="arcface")),
    "npcface": ("margin", js.npcface),
    "npcface, hard": ("mask_margin", lambda m: js.npcface(mask_margin=m)),
    "li_arcface": ("margin", js.li_arcface),
    "adaface": ("margin", js.adaface),
    "magface": ("u_margin", partial(js.magface, 0.4)),
    "inter_top_k": ("penalty", partial(js.inter_top_k, js.arcface(), 5)),
    "elastic_margin": ("mean", lambda mean: js.elastic_margin(KEY, (4,), mean=mean)),
    "dynamic_margins": ("largest", lambda m: js.dynamic_margins(jnp.arange(4), largest=m)),
}


@over(DEGREES)
def test_degrees(name):
    argument, make = DEGREES[name]
    with says(f"`{argument}`: expected an angle in radians, at most π, got 28.6", "jnp.deg2rad"):
        make(28.6)
    make(0.5)
    jax.eval_shape(make, 0.5)  # traced, it has no value that is known


def test_degrees_in_an_array():
    with says("`margin`: expected an angle in radians"):
        js.arcface(jnp.array([20.0, 30.0]))
    with says("`margin`: expected an angle in radians"):
        js.arcface(js.PerExample(np.array([20.0, 30.0])))


def test_states_of_another_margin():
    with says("`margin`: expected one that adaface made, got arcface(margin=0.5"):
        js.adaface_update(js.arcface(), X)
    with says("`margin`: expected one that curricularface made, got arcface(margin=0.5"):
        js.curricularface_update(js.arcface(), X, W, Y)


def test_results_in_the_place_of_functions():
    loss = js.cross_entropy(Z, Y)
    with says("`function`: ", "Write checked(f)(x), not checked(f(x))"):
        js.checks.checked(loss)
    with says("`loss`: ", "Write shift_invariant(loss), not "):
        js.shift_invariant(loss)
    with says("`metric`: expected a function"):
        js.bootstrap_interval(KEY, loss, Z)
    with says("It is sharded_linear_loss(mesh, batch_axis=..."):
        js.sharded_linear_loss(X, W, Y)


@pytest.mark.parametrize("head", [js.cross_entropy, partial(js.linear_cross_entropy, X)])
def test_weights_of_classes_in_a_dictionary(head):
    with says("`class_weight`: expected an array of numbers, got dict"):
        head(*([Z, Y] if head is js.cross_entropy else [W, Y]), class_weight={0: 1.0})


@over(["cross_entropy", "focal_loss", "brier_loss", "entmax_loss"])
def test_labels_that_are_no_array(name):
    with says("`labels`: expected an array of numbers, got NoneType"):
        FUNCTIONS[name](Z, None)
    assert np.isnan(FUNCTIONS[name](Z[:1], [2**40])).all()


@over(["softmax", "cross_entropy", "distillation_loss"])
def test_numbers_that_are_none(name):
    given = {"softmax": (Z,), "cross_entropy": (Z, Y)}.get(name, (Z, Z))
    with says("`temperature`: expected a number, got NoneType"):
        FUNCTIONS[name](*given, temperature=None)
    with says("`temperature`: expected a number, got dtype complex64"):
        FUNCTIONS[name](*given, temperature=1j)


OF_ARRAYS = ("sample_weight", "class_weight", "bias", "temperature", "pos_weight")
WITH_ARRAYS = {(option, name): x for option in OF_ARRAYS for name, x in with_option(option).items()}


@pytest.mark.parametrize(("option", "name"), WITH_ARRAYS)
def test_complex_numbers(option, name):
    with says(f"`{option}`: expected ", " number", "got dtype complex64"):
        WITH_ARRAYS[option, name](**{option: np.ones(4, np.complex64)})


def test_axes_that_are_none_or_equal():
    with says("`axis`: expected at least one axis"):
        js.softmax(Z, ())
    with says("`axis`: expected different axes, got (1, -1)"):
        js.entmax(Z, (1, -1))


def test_numbers_by_example_of_a_linear_head():
    smoothed = partial(js.linear_cross_entropy, X, W, Y)
    with says("`label_smoothing`: one number, or one for every example: expected shape"):
        smoothed(label_smoothing=np.zeros(len(Y) + 1))
    with says("`gamma`: one number", "goes through `loss_args`"):
        js.linear_loss(X, W, Y, partial(js.focal, gamma=np.zeros(len(Y))))


def test_shapes_of_a_linear_head():
    with says("`weight`: ", "write weight[:, None], and sub_center(margin, 1)"):
        js.linear_loss(X, W, Y, margin=js.sub_center(js.arcface()))
    with says("`labels.indices`: ", f"expected shape ({len(Y)}, None), got ({len(Y)},)"):
        js.linear_loss(X, W, js.SparseLabels(Y, np.ones(len(Y))))


# Of given values only, and so under `checked`.
CHECKED = {name: partial(f, labels=Y) for name, f in ON_LOGITS.items()}
del CHECKED["top_k_accuracy"]  # probabilities are in the same order
CHECKED |= {
    "entropy": js.entropy,
    "kl_divergence": partial(js.kl_divergence, target_probs=js.softmax(Z)),
    "distillation_loss": partial(js.distillation_loss, Z),
}


@over(CHECKED)
def test_probabilities_as_logits(name):
    with says("logits` look like probabilities", "pass the values from before it"):
        js.checks.checked(CHECKED[name])(js.softmax(Z))


@over(["cross_entropy", "brier_loss", "kl_divergence", "js_divergence"])
def test_logits_as_probabilities(name):
    argument = "target_probs" if name.endswith("divergence") else "labels"
    with says(f"`{argument}`: expected probabilities, got -1", "Apply softmax to logits"):
        js.checks.checked(FUNCTIONS[name])(Z, Z)


def test_classes_in_the_place_of_yes_and_no():
    with says("`same`: expected booleans, or integers 0 and 1, got other integers"):
        js.checks.checked(js.equal_error_rate)(Z[:, 0], Y)
