"""How good reconstructions are: text, faces, fidelity, by TokBench's protocol.

`evaluate` is the whole road: images -> every tokenizer -> judges -> table, JSON and HTML page.
"""

from training.evaluation.config import EvaluateConfig
from training.evaluation.evaluator import evaluate
from training.evaluation.protocol import Reconstruct
from training.evaluation.results import EvaluationResult, SystemResult

__all__ = ["EvaluateConfig", "EvaluationResult", "Reconstruct", "SystemResult", "evaluate"]
