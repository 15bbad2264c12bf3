"""Every mistake a user can make, one class each.

The message says what is wrong, `where` points at the user's file and line (or the text position),
`fix` says what to do. The class name is the manual page's name.
"""

from __future__ import annotations


class TilewrightError(Exception):
    """Base of all errors that are the user's to read; the command line exits with code 1."""

    excerpt: str | None = None
    """The line of the text at fault with carets below, where the mistake stands in a text."""

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.message} (at {self.where})"
        text = text if self.excerpt is None else f"{text}\n{self.excerpt}"
        return text if self.fix is None else f"{text}\n  fix: {self.fix}"


class CompilerBug(TilewrightError):
    """A rule of ours was broken by ourselves; the command line exits with code 3."""


# --- names and dimensions -------------------------------------------------------------------------


class InvalidName(TilewrightError):
    """A name is not an ASCII identifier (or path) of allowed length."""


class DimError(TilewrightError):
    """A dimension expression is malformed, or asks for a guess."""


class SymbolRangeError(TilewrightError):
    """A symbol's value is missing, out of its range or not a multiple of what was declared."""


# --- types ----------------------------------------------------------------------------------------


class ShapeError(TilewrightError):
    """Operand shapes do not fit the operation."""


class DTypeError(TilewrightError):
    """Operand dtypes do not fit the operation; tensors never promote, `cast` converts."""


class PlacementError(TilewrightError):
    """Operand placements have no legal result without a collective."""


class PlacementClaimError(CompilerBug):
    """A value's claimed placement is not what simulated ranks hold: a placement rule is wrong."""


class EncodingError(TilewrightError):
    """An encoding does not fit a type, or an operation needs a dense operand."""


class AttributeError_(TilewrightError):
    """An operation's attribute is missing, unknown or of the wrong kind."""


class InvalidType(TilewrightError):
    """Where a tensor's or a cache's type is declared stands something else, or a type of no use."""


class InvalidOperand(TilewrightError):
    """An operand is no tensor of the graph: an array, None, a text; or NumPy got a traced one."""


class InvalidOutput(TilewrightError):
    """A traced function returns nothing, or something that is no tensor of its graph."""


class RankError(TilewrightError):
    """An axis is out of range for a tensor's rank, or the number of axes is wrong."""


# --- graphs and programs --------------------------------------------------------------------------


class UnknownOp(TilewrightError):
    """The operation is not in the registry."""


class ArityError(TilewrightError):
    """An operation got the wrong number of operands."""


class GraphError(TilewrightError):
    """A graph breaks a law of the verifier (undefined value, double definition, dead reference)."""


class LinearStateError(TilewrightError):
    """A state value is consumed twice, read after it was consumed, or lost."""


class ProgramError(TilewrightError):
    """A program's tables (parameters, states, symbols, mesh) and its graphs disagree."""


class NoActiveGraph(TilewrightError):
    """An operation was called outside a function that is being traced."""


class ForeignTensor(TilewrightError):
    """A tensor of one graph was used while tracing another."""


class TextSyntaxError(TilewrightError):
    """The text form does not parse; the message shows the line and a caret."""


class ConstantTooLarge(TilewrightError):
    """A literal tensor is larger than the text form allows; make it a parameter."""


class IndexOutOfRange(TilewrightError):
    """An index operand is out of range in checked evaluation."""


# --- models and their files -----------------------------------------------------------------------


class ModelFileNotFound(TilewrightError):
    """A model file or folder is absent, or is not a plain file or folder."""


class MalformedModelFile(TilewrightError):
    """A model file is truncated, corrupted or breaks the rules of its format."""


class UnsupportedModel(TilewrightError):
    """A model file is well formed, but its architecture or number format has no importer."""


class ModelConfigError(TilewrightError):
    """A model's configuration lacks a key, or holds a value that no model can have."""


class UnsafePath(TilewrightError):
    """A path named inside a file leaves the folder that it must stay in."""


class MissingWeights(TilewrightError):
    """A model needs weights that its source does not hold."""


class UnexpectedWeights(TilewrightError):
    """A source holds weights that the model does not know."""


class WeightShapeMismatch(TilewrightError):
    """Weights of a source have other shapes than the model needs."""


class WeightFormatMismatch(TilewrightError):
    """A weight is no numbers, or numbers that the model's format for it cannot hold."""


# --- targets, settings and the cache --------------------------------------------------------------


class UnknownTarget(TilewrightError):
    """The target specification names no device that we know."""


class UnknownTargetFeature(TilewrightError):
    """The target's processor family has no such instruction-set feature."""


class UncalibratedNetwork(TilewrightError):
    """The network model has no constants for this hardware, so it predicts nothing on it."""


class UnknownAlgorithm(TilewrightError):
    """A collective has no algorithm of this name, or this hardware cannot run it."""


class InvalidCluster(TilewrightError):
    """A cluster has no devices, nothing joins its nodes, or it has fewer devices than ranks."""


class InvalidSimulation(TilewrightError):
    """A simulated task waits for one that comes later, or crosses a link that does not exist."""


class InvalidSetting(TilewrightError):
    """A setting's value, from the environment, a file or a flag, is not a legal one."""


class UnsafeCacheFolder(TilewrightError):
    """The cache folder is not ours alone: another owner, a link, or others may write to it."""


class WriteFailed(TilewrightError):
    """A file could not be written (full disk, no permission); what it held before is intact."""


# --- native code ----------------------------------------------------------------------------------


class LinkerMissing(TilewrightError):
    """Compiling for a cpu needs a C compiler or the `ziglang` package to link with."""


class LinkerFailed(TilewrightError):
    """The linker refused the object files, or did not run."""


class NativeLibraryError(TilewrightError):
    """A compiled library does not load, or is of another version of the calling convention."""


class TeamError(TilewrightError):
    """A thread team was used after `close`, or with a size that it does not have."""


class InvalidSchedule(TilewrightError):
    """A kernel schedule does not fit its shape or its instruction set."""


# --- passes ---------------------------------------------------------------------------------------


class PlanError(TilewrightError):
    """A plan names an option that a choice does not have."""


class InvalidHint(TilewrightError):
    """A hint about placements cannot be read, or names a strategy that does not exist."""


class IllegalRewrite(TilewrightError):
    """A rewrite was asked for by name, and it does not apply there."""


class UnknownPass(TilewrightError):
    """The pass, or one of its options, does not exist."""


class BrokenClaim(CompilerBug):
    """A rewrite changed the meaning beyond what its pass claims to preserve."""


class BrokenPlan(CompilerBug):
    """The steps of a graph would read, or write over, bytes that hold something else."""


class MeasurementFailed(TilewrightError):
    """The machine's rates could not be measured."""


class StateAliasError(TilewrightError):
    """A returned state cannot take over the storage of the one it replaces."""


class UnsupportedRegion(TilewrightError):
    """No backend lowers some of the operations; the message lists all of them."""


# --- artifacts ------------------------------------------------------------------------------------


class ArtifactError(TilewrightError):
    """Base of what is wrong with an artifact; compiling again mends all of it."""


class ArtifactNotFound(ArtifactError):
    """The folder is absent, or holds no artifact."""


class NotAnArtifact(ArtifactError):
    """The output folder holds something else, which is not overwritten."""


class ArtifactVersion(ArtifactError):
    """The artifact was made by a version whose format, or needs, this one does not know."""


class DamagedArtifact(ArtifactError):
    """A file of an artifact is not what it was when the artifact was made."""


class MissingArtifactFile(ArtifactError):
    """A file that the manifest lists is absent."""


class UnknownArtifactFile(ArtifactError):
    """The artifact's folder holds a file that the manifest does not list."""


class LinkInArtifact(ArtifactError):
    """An artifact holds a link or a special file; it is made of plain files and folders."""


class InvalidManifest(ArtifactError):
    """A manifest contradicts itself: a plan names what does not exist, or does not parse."""


# --- running --------------------------------------------------------------------------------------


class UnsupportedMachine(TilewrightError):
    """No section of the artifact runs here: the processor lacks instructions that it needs."""


class UnknownGraph(TilewrightError):
    """The artifact has no graph of that name."""


class MissingInput(TilewrightError):
    """A graph was called without one of its inputs."""


class UnknownInput(TilewrightError):
    """A graph was given an input that it does not have."""


class OutOfMemory(TilewrightError):
    """A call, or a session, needs more memory than the system gives."""


class KernelOverrun(TilewrightError):
    """A kernel wrote beyond the memory of its output: found where memory is guarded, in checks."""


class InvalidSession(TilewrightError):
    """A graph that keeps state was called without a session, or with one that does not fit."""


class MissingPackage(TilewrightError):
    """Something optional is needed here and not installed."""


class ProcessGroupError(TilewrightError):
    """The processes that run together are not as many as the artifact's mesh, or did not meet."""


# --- text generation ------------------------------------------------------------------------------


class NotALanguageModel(TilewrightError):
    """The artifact does not have the graphs `prefill` and `decode` of a language model."""


class PromptTooLong(TilewrightError):
    """The prompt does not fit the model's context."""


class InvalidPrompt(TilewrightError):
    """The prompt is empty, or holds a token that the model does not have."""


class InvalidSampling(TilewrightError):
    """A temperature, top-k or top-p is out of range."""


class InvalidLogits(TilewrightError):
    """The model returned no number to choose a token by."""


class TokenizerMissing(TilewrightError):
    """The artifact holds no tokenizer, or one that cannot be read; token ids still work."""


class UnknownBackend(TilewrightError):
    """The backend does not exist."""


# --- the command line -----------------------------------------------------------------------------


class InvalidModelFunction(TilewrightError):
    """What should be a graph or a program is none, or the code that makes it fails."""


class UntrustedCode(TilewrightError):
    """A Python file would have to be run, and `--untrusted` forbids it."""


class InvalidArrayFile(TilewrightError):
    """A file of arrays (.npz) cannot be read, or holds arrays of another kind."""


class UnsuitableOption(TilewrightError):
    """An option does not go with the others, or with this kind of model."""


# --- tuning ---------------------------------------------------------------------------------------


class RecordsUnreadable(TilewrightError):
    """The store of tuning records is damaged, absent, locked, out of reach or not to be written."""


class WorkersFailed(TilewrightError):
    """The workers of a tuning run cannot be started, or their cluster cannot be reached."""


class NothingToTune(TilewrightError):
    """The program has no kernel with a space, or never meets the choice that was named."""


class BaselineFailed(TilewrightError):
    """What is taken untuned cannot be compiled, run or checked here: nothing compares with it."""


class InvalidBudget(TilewrightError):
    """A budget leaves a study no second, or no trial."""


class InvalidAim(TilewrightError):
    """A search is told to aim at something that there is not."""


class InvalidPreference(TilewrightError):
    """A preference does not say of what, or not how much it may cost."""


class TooFewProbes(TilewrightError):
    """Short runs do not determine how long a model generates."""
