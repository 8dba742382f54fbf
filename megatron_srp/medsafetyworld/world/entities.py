"""Names of things that do not exist: compounds, mediators and outcomes, joined from parts.

    compound   start + middle + ending       carvoraidon
    mediator   state + process               limbic aberrant airway sensitivity
    outcome    state + symptom               acute appetite loss

No name contains another, so that an answer can be found as a plain substring.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world.draws import Draws

# Starts end and endings begin with a consonant, middles do neither: every name is pronounceable.
_COMPOUND = (
    "belv brim carv cresp dalm dront fesk fland garv glin harv jelm kest lorv lund marv nesk "
    "pelv plin quost rast sorv stel talv trask vand vesp wint yelm zorb".split(),
    "abi ado ara elo emi ero ilo imu ini obe olu ora ovi ulo uma uni aide ebra ivra osti udra onti ante enzo".split(),
    "don dran fen gil glex kast lim lane mex mir nax nid pril quel rast rin sene stat tane tol trex vir zane".split(),
)
_MEDIATOR = (
    "basal cardiac cerebral cortical dermal enteric gastric glial hepatic limbic lymphatic neural ocular "
    "pulmonary renal retinal spinal splenic thalamic thymic tonsillar vagal vascular venous".split(),
    "aberrant asymmetric blunted cyclic deficient diffuse erratic excessive heightened impaired inverted "
    "latent partial reduced suppressed unstable".split(),
    "airway barrier calcium capillary enzyme fibre follicle glucose hormone iron membrane mucus platelet protein "
    "receptor reflex salt signal sugar vessel".split(),
    "absorption adhesion binding clearance drift leakage recycling release retention sensitivity signalling "
    "turnover".split(),
)
_OUTCOME = (
    "abrupt acute afternoon brief chronic constant delayed early evening faint fluctuating frequent gradual "
    "intermittent isolated lasting late marked mild moderate morning nightly noticeable occasional painless "
    "passing periodic persistent profound progressive recurrent seasonal severe slight slow sporadic stubborn "
    "sudden transient unusual".split(),
    (
        "ankle swelling|appetite loss|balance trouble|brittle nails|chest tightness|cold fingers|colour confusion|"
        "cough fits|dry mouth|ear ringing|elbow pain|eye watering|eyelid twitching|facial flushing|finger numbness|"
        "foot cramps|gait changes|gum soreness|hair thinning|hand tremor|heart flutter|hip stiffness|hoarse voice|"
        "itchy scalp|jaw clicking|joint warmth|knee weakness|lip tingling|memory lapses|metallic taste|mood swings|"
        "muscle aches|nasal dryness|neck tension|night sweats|odour aversion|palm redness|pulse drops|restless legs|"
        "rib tenderness|shallow breathing|shoulder spasms|skin peeling|sleep loss|sneezing bouts|sore throat|"
        "speech pauses|stomach noise|sun intolerance|taste loss|thirst surges|toe burning|tongue coating|tooth ache|"
        "tunnel vision|vein bulging|vision blur|voice cracking|weight gain|wrist clicking"
    ).split("|"),
)

# Compounds are never called as one of these; the parts are chosen so that few could be.
REAL_DRUGS = frozenset(
    "acyclovir adderall albuterol allopurinol alprazolam amiodarone amlodipine amoxicillin aspirin atenolol "
    "atorvastatin azithromycin baclofen bupropion buspirone captopril carbamazepine carvedilol celecoxib cetirizine "
    "ciprofloxacin citalopram clonazepam clonidine clozapine codeine dapsone diazepam diclofenac digoxin donepezil "
    "doxepin enalapril fentanyl fluoxetine furosemide gabapentin haloperidol heparin ibuprofen insulin ketamine "
    "labetalol lisinopril lithium loratadine lorazepam losartan metformin methadone metoprolol morphine naloxone "
    "naltrexone naproxen omeprazole oxycodone paracetamol paroxetine penicillin phenytoin prednisone pregabalin "
    "propofol quinine ramipril ranitidine risperidone rosuvastatin sertraline sildenafil simvastatin tadalafil "
    "tamoxifen tramadol trazodone valproate venlafaxine verapamil warfarin zolpidem".split()
)


@dataclass(frozen=True, slots=True)
class Entities:
    """The world's names, and `unsafe` bool[outcomes]."""

    compounds: list[str]
    mediators: list[str]
    outcomes: list[str]
    unsafe: np.ndarray


def _names(what: str, parts: tuple[list[str], ...], joint: str, n: int, draws: Draws) -> list[str]:
    """`n` distinct names; raises UsageError when there are not that many."""
    sizes = tuple(map(len, parts))
    picked = np.unravel_index(draws.permutation(prod(sizes)), sizes)
    names: list[str] = []
    for places in zip(*picked, strict=True):
        if len(names) == n:
            return names
        name = joint.join(part[i] for part, i in zip(parts, places, strict=True))
        if name not in REAL_DRUGS:
            names.append(name)
    if len(names) < n:
        raise UsageError(f"{n} {what}: the morphemes make {len(names)} names; ask for fewer")
    return names


def make_entities(compounds: int, mediators: int, outcomes: int, unsafe_share: float, seed: int) -> Entities:
    """Draw names, and which outcomes are unsafe: exactly that share of them, rounded, at random."""
    unsafe = np.zeros(outcomes, bool)
    unsafe[Draws(seed, "unsafe").permutation(outcomes)[: round(unsafe_share * outcomes)]] = True
    return Entities(
        _names("compounds", _COMPOUND, "", compounds, Draws(seed, "compounds")),
        _names("mediators", _MEDIATOR, " ", mediators, Draws(seed, "mediators")),
        _names("outcomes", _OUTCOME, " ", outcomes, Draws(seed, "outcomes")),
        unsafe,
    )
