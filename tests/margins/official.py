"""The scores of published heads in float64 numpy, and numbers that their official code gives.

Every head is a function (cosines [N, C], norms [N], labels [N], its numbers) -> logits [N, C],
with the defaults of its code; `sphereface2` and `uniface` have a loss of their own. The numbers are
from the official code in float64 with torch 2.13. Where that code cuts an angle or a cosine off
against NaNs (at 1e-3 in AdaFace, 1e-5 in OpenSphere), the inputs are off the cuts.
"""

import numpy as np
import oracles

FEATURES = np.array([[0.5, -1.2, 0.3], [1, 0.4, -0.7], [-0.8, 0.9, 1.5], [0.2, -0.6, -1.1]])
WEIGHT = np.array(
    [[0.9, -0.4, 0.7, -1.1, 0.3], [0.2, 1.3, -0.5, 0.6, -0.9], [-0.6, 0.8, 1, 0.4, -1.2]]
).T
LABELS = np.array([2, 0, 1, 3])
# Two centers of each class: [classes, centers, features].
CENTERS = np.concatenate([WEIGHT, 0.1 - WEIGHT[:, ::-1] / 2]).reshape(5, 2, 3)


def cosines_of(features, weight):
    """Return cosines and the norms of the features; a class has one center, or several."""
    norms = np.linalg.norm(features, axis=-1)
    units = weight / np.linalg.norm(weight, axis=-1, keepdims=True)
    cosines = np.tensordot(features / norms[:, None], units, (-1, -1))
    return cosines if weight.ndim == 2 else cosines.max(-1), norms


# --- parts ---


def own(cosines, labels):
    return np.take_along_axis(cosines, labels[:, None], -1)


def put(target, others, labels):
    return np.where(oracles.one_hot(labels, others.shape[-1]) == 1, target, others)


def arc(c, m, beyond="continue"):
    """Return cos(θ + m), with one of the rules for where θ + m exceeds π."""
    theta = np.arccos(c)
    turned = np.cos(theta + m)
    if beyond == "continue":
        return np.where(theta + m > np.pi, -turned - 2, turned)
    if beyond == "linear":
        return np.where(c > np.cos(np.pi - m), turned, c - m * np.sin(m))
    if beyond == "easy":
        return np.where(c > 0, turned, c)
    return np.cos(np.clip(theta + m, 0, np.pi))


# --- heads that change the true class's score only ---


def arcface(c, _, labels, margin=0.5, scale=64.0, beyond="continue"):
    return scale * put(arc(own(c, labels), margin, beyond), c, labels)


def adaface(c, norms, labels, margin=0.4, h=0.333, scale=64.0, norm_mean=20.0, norm_std=100.0):
    norms = np.clip(norms, 1e-3, 100)[:, None]
    quality = np.clip((norms - norm_mean) / (norm_std + 1e-3) * h, -1, 1)
    target = arc(own(c, labels), -margin * quality, "clamp") - margin * (1 + quality)
    return scale * put(target, c, labels)


def adaface_statistics(norms, mean=20.0, std=100.0, t_alpha=0.01):
    norms = np.clip(norms, 1e-3, 100)
    return mean + t_alpha * (norms.mean() - mean), std + t_alpha * (norms.std(ddof=1) - std)


def magface(
    c, a, labels, l_margin=0.45, u_margin=0.8, l_norm=10.0, u_norm=110.0, scale=64.0, beyond="easy"
):
    share = (np.clip(a, l_norm, u_norm)[:, None] - l_norm) / (u_norm - l_norm)
    m = l_margin + (u_margin - l_margin) * share
    return scale * put(arc(own(c, labels), m, beyond), c, labels)


def sphereface(c, _, labels, m=1.7, scale=30.0):
    return scale * put(oracles.phi(own(c, labels), m), c, labels)


# --- heads that change the others too ---


def mv_softmax(
    c, _, labels, margin=0.35, t=0.2, scale=32.0, target="cosface", kind="adaptive", beyond="easy"
):
    c_y = own(c, labels)
    bare = c_y - margin if target == "cosface" else np.cos(np.arccos(c_y) + margin)
    kept = np.where(c_y > 0, bare, c_y) if beyond == "easy" else bare
    hardened = (1 + t) * c + t if kind == "adaptive" else c + t
    return scale * put(kept, np.where(c > bare, hardened, c), labels)


def curricularface(c, _, labels, margin=0.5, scale=64.0, t=0.0, beyond="linear"):
    c_y = own(c, labels)
    hard = c > np.cos(np.arccos(c_y) + margin)
    return scale * put(arc(c_y, margin, beyond), np.where(hard, c * (t + c), c), labels)


def arcnegface(c, _, labels, margin=0.5, alpha=1.2, sigma=2.0, scale=64.0, beyond="linear"):
    target = arc(own(c, labels), margin, beyond)
    near = alpha * np.exp(-((c - target) ** 2) / sigma)
    return scale * put(target, near * c + near - 1, labels)


def npcface(c, _, labels, margin=0.4, slope=0.2, t=1.1, a=0.2, scale=64.0, mask_margin=None):
    """The official class has `margin` 0.4 at the target, but 0.5 for which others are hard."""
    c_y = own(c, labels)
    hard = c > np.cos(np.arccos(c_y) + (margin if mask_margin is None else mask_margin))
    others = hard & (oracles.one_hot(labels, c.shape[-1]) == 0)
    mean = (others * c).sum(-1, keepdims=True) / np.maximum(others.sum(-1, keepdims=True), 1)
    target = arc(c_y, margin + slope * mean, "easy")
    return scale * put(target, np.where(hard, t * c + a, c), labels)


def sphereface_r(c, _, labels, m=1.5, scale=30.0, version="v2"):
    c_y = own(c, labels)
    theta = np.arccos(c_y)
    target = {"v0": oracles.phi(c_y, m), "v1": np.cos(np.minimum(m * theta, np.pi)), "v2": c_y}
    return scale * put(target[version], np.cos(np.arccos(c) / m) if version == "v2" else c, labels)


def li_arcface(c, _, labels, margin=0.45, scale=64.0):
    theta = np.arccos(c)
    return scale * (np.pi - 2 * put(own(theta, labels) + margin, theta, labels)) / np.pi


def tvmf(c, _, labels, kappa=16.0, scale=1.0):
    return scale * ((1 + c) / (1 + kappa * (1 - c)) - 1)


def circle(c, _, labels, m=0.25, scale=256.0):
    target = np.maximum(1 + m - c, 0) * (c - (1 - m))
    return scale * put(target, np.maximum(c + m, 0) * (c - m), labels)


def inter_top_k(c, _, labels, margin=0.2, scale=32.0, k=5, penalty=0.06):
    others = put(-np.inf, c, labels)
    hard = others >= np.sort(others, -1)[:, -min(k, c.shape[-1] - 1), None]
    nearer = np.cos(np.arccos(c) - penalty)
    return scale * put(arc(own(c, labels), margin), np.where(hard, nearer, c), labels)


# --- heads that are not a softmax: (cosines, labels) -> losses [N] ---


def one_against_rest(logits, labels, positive=1.0, negative=1.0):
    true = oracles.one_hot(labels, logits.shape[-1])
    terms = np.where(true, positive, negative) * np.logaddexp(0, np.where(true, -1, 1) * logits)
    return terms.sum(-1)


def sphereface2(c, labels, alpha=0.7, r=40.0, m=0.4, t=3.0, lw=50.0, bias=0.0):
    g = 2 * ((c + 1) / 2) ** t - 1
    logits = r * put(g - m, g + m, labels) + bias
    return lw / r * one_against_rest(logits, labels, alpha, 1 - alpha)


def sphereface2_bias(classes, alpha=0.7, r=40.0, m=0.4, t=3.0):
    z = alpha / ((1 - alpha) * (classes - 1))
    g = 2 * 0.5**t - 1
    root = np.sqrt((1 - z) ** 2 + 4 * z * np.exp(-2 * r * m))
    return np.log(2 * z / (1 - z + root)) - r * (g + m)


def uniface(c, labels, m=0.4, scale=64.0, bias=0.0):
    """With the bias added; the official code subtracts it, and starts at log(10 classes)."""
    return one_against_rest(scale * put(c - m, c, labels) + bias, labels)


def p2sgrad(c, labels):
    return ((c - oracles.one_hot(labels, c.shape[-1])) ** 2).sum(-1)


# --- numbers by themselves ---


def adacos_scale(c, labels, scale):
    others = put(-np.inf, scale * c, labels)
    median = np.sort(np.arccos(own(c, labels)[:, 0]))[(len(c) - 1) // 2]  # the lower one
    return np.log(np.exp(others).sum(-1).mean()) / np.cos(min(np.pi / 4, median))


def dynamic_margins(counts, smallest=0.05, largest=0.5, power=0.25):
    rarity = np.asarray(counts, np.float64) ** -power
    low, high = rarity.min(), rarity.max()
    return smallest + (largest - smallest) * (rarity - low) / (high - low)


# --- what the official code gives ---

# The mean loss, and its gradient with respect to the four features. The numbers of each head are
# in `test_official`; the loss is of the logits but for the last four.
TABLE = """
adaface | 5.187071189629 | mk-minchul/AdaFace@c60eaa7 head.py
  -0.2232499764 -0.4862339059 -1.5728523298  -0.0319976166 -0.0933565732 -0.0990574942
  -0.5702147285 -0.1701456795 -0.2020271142  1.1808528653 -0.4179521301 0.4426744101
magface | 4.585724063427 | IrvingMeng/MagFace@99bae61 models/magface.py
  0.0309766855 -1.4608916208 -1.6538610256  0.0038326603 -0.0011657356 -0.0372200461
  -0.7505706488 -0.7860655940 0.0713350103  1.2540847272 -0.4344955069 0.4650129542
magface linear | 7.85680482482 | the same, easy_margin=False
  -0.0870573083 -1.7011454626 -2.3156057881  0.0190750167 0.1711621877 -0.4528328139
  -0.7714465954 -0.8308362456 0.0870635631  1.4683863764 -1.0773915190 -0.7136263472
curricularface | 5.273581520014 | HuangYG123/CurricularFace@68c8727 head/metrics.py
  -0.2141238945 -0.4727378141 -1.5340780989  -0.0180248367 -0.0081050120 -0.0303812022
  -1.1193407092 -0.5610015721 -0.2603807683  0.7379689917 -0.5666246890 0.4432441925
curricularface past pi | 8.255685816689 | the same
  -0.4531926812 -0.8463478704 -2.6300703464  -0.2952583210 0.1106227639 -0.3585845934
  -1.2478616916 -0.7513056527 -0.2147428439  1.3125439027 -0.6964265609 0.6185133792
mv cosface | 5.996652859342 | xiaoboCASIA/SV-X-Softmax@89b536d fc_layers.py
  -0.3080715605 -0.7127120296 -2.3373955174  -0.0292573699 -0.1122745119 -0.1059531067
  -0.7431377403 -0.3204294208 -0.2040824757  1.2562669597 -0.4807237543 0.4906251314
mv cosface fixed | 5.133068614346 | the same, its other line
  -0.2977857602 -0.6188099188 -1.9789300747  -0.0292573699 -0.1122745119 -0.1059531067
  -0.6266184214 -0.3322471040 -0.1348482290  1.2540874213 -0.4344964403 0.4650139531
mv arcface | 5.574805300392 | the same
  -0.3992377686 -0.7868668772 -2.4820712278  -0.0083106570 -0.0081245906 -0.0165149903
  -0.8028749593 -0.5642535185 -0.0896478672  1.2562669612 -0.4807237595 0.4906251345
mv arcface not easy | 6.043502933374 | the same, easy_margin=False
  -0.3992377686 -0.7868668772 -2.4820712278  -0.0083106570 -0.0081245906 -0.0165149903
  -0.8028749593 -0.5642535185 -0.0896478672  0.8767250640 -0.3949817033 0.3748491225
arcnegface | 3.255737838998 | JDAI-CV/FaceX-Zoo@16b793a head/ArcNegFace.py
  -0.4367955869 -0.8517791437 -2.6791239301  -0.0562388773 -0.0390165088 -0.1026364011
  -0.8117406854 -0.6563437127 -0.0391221379  1.2552780811 -0.3846562515 0.4380448792
arcnegface past pi | 4.847744192883 | the same
  -0.2758108914 -0.7326282799 -2.4708283007  -0.6167033728 -0.0026147275 -0.8824989482
  -0.5972485167 -0.9042378632 0.2240101757  1.6210309425 -0.6041870278 0.6242894593
npcface | 5.709738937316 | the same, head/NPCFace.py
  -0.4476991977 -0.8195746772 -2.5321333794  -0.0106391191 -0.0082701360 -0.0199245336
  -0.7906237110 -0.6916423697 -0.0066805574  1.2545382097 -0.4581071779 0.4779744988
circle | 8.791328781745 | the same, head/CircleLoss.py
  -0.1352812374 -0.2619259829 -0.8222352026  -0.0392654075 -0.2049408159 -0.1732024770
  -0.5675715585 -0.0679356291 -0.2619434538  2.2519366856 -0.7231497017 0.8038883256
sphereface | 5.135736757165 | ydwen/opensphere@a679e82 opensphere/module/head/sphereface.py
  -0.2451688979 -0.5531030211 -1.8037972546  -0.0023166569 -0.0088901198 -0.0083895783
  -0.4552910215 -0.2467228082 -0.0947881933  1.2540880729 -0.4344966661 0.4650141947
sphereface_r v0 | 4.472964870285 | ydwen/opensphere@ec8a8ca^ model/head/spherefacer.py
  -0.1743154974 -0.3932571752 -1.2825028719  -0.0022119283 -0.0084882259 -0.0080103123
  -0.3791293677 -0.2054507070 -0.0789319053  1.2540879747 -0.4344966321 0.4650141583
sphereface_r v1 | 4.43273383862 | the same
  -0.1743154974 -0.3932571752 -1.2825028719  -0.0022119283 -0.0084882259 -0.0080103123
  -0.3791293677 -0.2054507070 -0.0789319053  1.2540879524 -0.4344966243 0.4650141501
sphereface_r v2 | 3.707889752179 | the same
  -0.1002587297 -0.3502793840 -1.2340196534  -0.0166643753 -0.0816263994 -0.0704499072
  -0.3099403702 -0.2188826341 -0.0339719503  1.3910189064 -0.3300722884 0.4329519585
li_arcface | 3.924600549802 | limxuanyu127/seesawfacenet_pytorch@d975f12 Li_ArcFace.py
  -0.1597069947 -0.3421205929 -1.1023040473  -0.0233015607 0.0140412682 -0.0252643620
  -0.5665357480 -0.4099696277 -0.0561706223  1.2197839912 -1.0224943939 0.7795031223
tvmf | 3.519051329356 | tk1980/tvMF@8481e36 models/Loss.py
  -0.1421364776 -0.1661161243 -0.4275703680  -0.0000115791 0.0000304573 0.0000008626
  -0.1874964294 -0.2275492709 0.0365314668  1.5734522016 -4.5714488750 2.7795997867
sub_center | 6.057317657047 | pytorch-metric-learning 2.9.0 SubCenterArcFaceLoss
  -0.2091194489 0.4634920278 2.2025005260  -0.1941885476 0.5708574869 0.0487920674
  0.8944014666 0.1442975138 0.3904356073  1.0156254736 -0.9734086120 0.7156093290
inter_top_k | 3.867198608597 | wenet-e2e/wespeaker@dfa7419 wespeaker/models/projections.py
  -0.1334084308 -0.2649251321 -0.8373531435  -0.0063971606 -0.0111947812 -0.0155358186
  -0.3888928383 -0.3098256095 -0.0215141481  1.0353917063 -0.3070955104 0.3557596795
inter_top_k, sub_center | 4.416016334281 | the same
  -0.2057200525 0.4376368364 2.0934140999  -0.0641830282 0.2391636938 0.0449749276
  0.6812272571 0.1033570722 0.3013069605  1.1141334550 -0.9912096667 0.7432295373
arcface linear | 7.744198121182 | pytorch-metric-learning 2.9.0 ArcFaceLoss
  -0.4503639362 -0.8205688753 -2.5316689409  -0.2952583210 0.1106227639 -0.3585845934
  -0.7699162621 -0.8305682848 0.0877189644  1.2540880988 -0.4344966750 0.4650142044
arcface easy | 6.06125682368 | xiaoboCASIA/SV-X-Softmax@89b536d fc_layers.py
  -0.4503639362 -0.8205688753 -2.5316689409  -0.2952583210 0.1106227639 -0.3585845934
  -0.7699162621 -0.8305682848 0.0877189644  1.2540847272 -0.4344955069 0.4650129542
arcface clamp | 6.838910118367 | mk-minchul/AdaFace@c60eaa7 head.py, its eps at 0
  -0.4503639362 -0.8205688753 -2.5316689409  -0.2952583210 0.1106227639 -0.3585845934
  -0.7699162621 -0.8305682848 0.0877189644  0.0877159819 -0.1710022545 0.1092223173
sphereface2 | 28.73723027041 | ydwen/opensphere@a679e82 opensphere/module/head/sphereface2.py
  1.0023457653 -0.4202938728 -3.3517517666  0.2184940225 -1.2729752531 -0.4152801124
  0.1367374071 -0.5032811786 0.3748953243  7.7299043129 -0.4421556164 1.6466129386
sphereface2 exact | 3.03442900397 | wenet-e2e/wespeaker@dfa7419 wespeaker/models/projections.py
  -0.3867427044 -0.4087488835 -0.9904243600  -0.0101114403 -0.0583539431 -0.0477900250
  -0.3849770881 0.0141987990 -0.2138403930  0.3851839406 -0.0537353476 0.0993436333
uniface | 8.597001430314 | CVI-SZU/UniFace@00ade47 head.py
  0.6276901571 -0.1652416786 -1.7071169761  0.0481293118 -1.0037446387 -0.5048122053
  -0.0187038763 -0.3044085978 0.1726697580  2.3994674467 0.1751912011 0.3407079716
p2sgrad | 2.182757533717 | pytorch-metric-learning 2.9.0, its renorm exact; times classes
  0.1237552347 -0.0738879902 -0.5018106853  0.0426105703 -0.3441493885 -0.1357845501
  -0.1200070449 -0.0729855168 -0.0202124472  0.5830453825 -0.1201215719 0.1715291088
"""


def published():
    lines = TABLE.strip().splitlines()
    for head, *rows in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, loss, _ = head.split(" | ")
        yield name, (float(loss), np.array(" ".join(rows).split(), np.float64).reshape(4, 3))


PUBLISHED = dict(published())
