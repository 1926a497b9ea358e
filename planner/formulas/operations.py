"""Torch operations as autograd records them: what each keeps, makes and needs besides.

Each method of ``Recorder`` stands for one operation of the eager PyTorch code of transformers, PEFT
and bitsandbytes and says, in its docstring, what is saved. Widths are elements per token.
"""

from dataclasses import dataclass
from typing import NamedTuple

from planner.formulas.states import dequantized_bytes, torchao_nf4_scratch
from planner.formulas.tape import ZERO, Op, OwnerTag, Size, Tape, Tensor
from planner.spec import Linear


class Ranks(NamedTuple):
    """Ranks that share a layer's work in ways that its tape shows; dividing matrices shows in their shapes."""

    sequence: int = 1
    """They hold the residual stream in parts along the sequence (Megatron's sequence parallelism)."""
    context: int = 1
    """They hold parts of the sequence and pass keys and values around."""
    ulysses: int = 1
    """They hold parts of the sequence and exchange them for heads around attention."""
    expert: int = 1
    """They hold different experts."""
    vocabulary: int = 0
    """Width of the logits after they are gathered from ranks that hold rows of the head; 0: they are not."""


class Recipe(NamedTuple):
    """Everything besides the block's own shape that decides which tensors a layer makes.

    Element sizes are in bytes. ``adapter_bytes`` is 0 without adapters; ``quant`` is empty without
    quantisation.
    """

    full: bool
    stream_bytes: int
    weight_bytes: int
    norm_bytes: int
    compute_bytes: int
    autocast: bool
    adapter_bytes: int
    rank: int
    modules: frozenset[str]
    """Names of the matrices that carry an adapter."""
    stacked: frozenset[str]
    """Names of the stacked expert tensors that PEFT adapts as a whole."""
    dropout: bool
    quant: str
    double_quant: bool
    attention: str
    flash_kernel: bool
    """The card can run the flash kernel; without it sdpa has the memory-efficient and the math path."""
    fused: frozenset[str]
    """Which of norm, rope, swiglu, xielu, lora (or lora_quantized), lora_mlp and loss run as one kernel."""
    several: bool
    """More than one sequence per micro-batch: heads and batch cannot be merged without a copy."""
    repeats_kv: bool
    """Key and value heads are expanded before the attention kernel."""
    fused_experts: bool
    stored_bytes: int
    """Of matrices and stacked experts that are not quantised, where others are: PEFT's preparation makes them fp32."""
    keeps_4bit_input: bool = False
    """The product with a 4-bit matrix keeps its input, which its backward has no use for."""
    torchao: bool = False
    """4-bit matrices are torchao's."""
    keeps_dequantized: bool = False
    """4-bit matrices are dequantised into a buffer that stays, and is counted elsewhere."""
    ranks: Ranks = Ranks()
    compiled: bool = False
    """``torch.compile`` has made a layer and the loss into graphs of their own."""
    packed_experts: bool = False
    """Stacks of experts are quantised, and dequantised whole for every pass."""

    @property
    def matrix_bytes(self) -> int:
        """Of a matrix that is not quantised."""
        return self.stored_bytes if self.quant else self.weight_bytes

    @property
    def expert_bytes(self) -> int:
        """Of a stacked expert's weight as the product finds it: 8-bit stacks are dequantised to fp32.

        bitsandbytes 0.50 functional.py, int8_vectorwise_dequant; of 4-bit ones nn/parametrize.py keeps the dtype.
        """
        if not self.packed_experts:
            return self.stored_bytes
        return 4 if self.quant == "int8" else self.weight_bytes

    def adapts(self, linear: Linear) -> bool:
        """Whether PEFT puts an adapter on this matrix."""
        return linear.name in self.modules


@dataclass(eq=False, slots=True)
class Recorder:
    """Writes operations on a tape under one recipe."""

    recipe: Recipe
    tape: Tape

    # ------------------------------------------------------------ tensors

    def tensor(
        self, name: str, width: int, e: int, *, grad: bool = True, owner: OwnerTag = "activations", shape: str = ""
    ) -> Tensor:
        """A new tensor ``(b, s, width)`` of ``e``-byte elements."""
        return Tensor(name, Size(token=width * e), shape or f"b s {width}", e, grad, owner)

    def constant(self, name: str, size: Size, shape: str, e: int) -> Tensor:
        """A tensor that needs no gradient."""
        return Tensor(name, size, shape, e, grad=False)

    @staticmethod
    def width(tensor: Tensor) -> int:
        """Elements per token."""
        return tensor.size.token // tensor.e

    def view(self, tensor: Tensor, name: str) -> Tensor:
        """The same memory under another name: reshape, transpose, split of a contiguous tensor."""
        out = Tensor(name, tensor.size, tensor.shape, tensor.e, tensor.grad, tensor.owner, tensor.root)
        return self.tape.add(Op("view", (tensor,), out, passes=(tensor,)))

    def part(self, tensor: Tensor, name: str, width: int) -> Tensor:
        """A slice of ``width`` elements; backward writes its gradient into zeros of the whole. Saves nothing."""
        size = Size(token=width * tensor.e)
        return self.tape.add(
            Op("slice", (tensor,), Tensor(name, size, f"b s {width}", tensor.e, tensor.grad, storage=tensor.root))
        )

    def copied_part(self, tensor: Tensor, name: str, width: int) -> Tensor:
        """Advanced indexing: a copy of ``width`` elements. Saves nothing of its size."""
        return self.tape.add(Op("index", (tensor,), self.tensor(name, width, tensor.e, grad=tensor.grad)))

    def kept(self, x: Tensor) -> Tensor:
        """What is saved of an operation's input: of a gathered one the rank's own part."""
        return x if x.part is None else x.part

    def regathered(self, x: Tensor) -> Size:
        """Scratch memory of a backward pass that needs ``x``."""
        return ZERO if x.part is None else x.size

    def name(self, *tensors: Tensor) -> None:
        """Variables of the function that ends with the last operation still point at these tensors."""
        last = self.tape.ops[-1]
        last.named = (*last.named, *tensors)

    # ------------------------------------------------------------ elementwise

    def cast(self, tensor: Tensor, e: int, name: str = "") -> Tensor:
        """``tensor.to(dtype)``: no copy when the dtype is right already. Saves nothing."""
        if tensor.e == e:
            return tensor
        size = Size(*(part // tensor.e * e for part in tensor.size))
        out = Tensor(name or f"{tensor.name} as {_dtype(e)}", size, tensor.shape, e, tensor.grad, tensor.owner)
        out.by_heads = tensor.by_heads
        return self.tape.add(Op("cast", (tensor,), out))

    def unary(self, tensor: Tensor, name: str, *, saves: str = "input", scratch: int = 0) -> Tensor:
        """An elementwise function. Saves its input, its output or nothing; backward makes ``scratch`` tensors more."""
        out = Tensor(name, tensor.size, tensor.shape, tensor.e, tensor.grad, tensor.owner)
        kept = {"input": (tensor,), "output": (out,), "nothing": ()}[saves]
        return self.tape.add(Op(name, (tensor,), out, saved=kept, scratch_backward=tensor.size.times(scratch)))

    def mul(self, left: Tensor, right: Tensor, name: str) -> Tensor:
        """``left * right``. Saves each factor whose partner needs a gradient."""
        kept = tuple(factor for factor, partner in ((left, right), (right, left)) if partner.grad)
        e = max(left.e, right.e)
        wide = left if left.size.token // left.e >= right.size.token // right.e else right
        out = Tensor(name, wide.size.times(e // wide.e), wide.shape, e, left.grad or right.grad)
        narrow = right if wide is left else left
        scratch = out.size if narrow.grad and narrow.size != wide.size else ZERO
        return self.tape.add(Op(name, (left, right), out, saved=kept, scratch_backward=scratch))

    def add(self, left: Tensor, right: Tensor, name: str) -> Tensor:
        """``left + right`` in the wider dtype. Saves nothing; the gradient passes through."""
        e = max(left.e, right.e)
        out = Tensor(name, left.size.times(e // left.e), left.shape, e, left.grad or right.grad)
        passes = tuple(term for term in (left, right) if term.size == out.size)
        return self.tape.add(Op("add", (left, right), out, passes=passes))

    def dropout(self, tensor: Tensor, name: str) -> Tensor:
        """``nn.Dropout`` with a positive rate on CUDA. Saves a one-byte mask."""
        mask = Tensor(f"{name} mask", Size(*(part // tensor.e for part in tensor.size)), tensor.shape, 1, grad=False)
        out = Tensor(name, tensor.size, tensor.shape, tensor.e, tensor.grad)
        return self.tape.add(Op("dropout", (tensor,), out, saved=(mask,)))

    # ------------------------------------------------------------ matrices

    def linear(self, x: Tensor, linear: Linear, *, lora: bool = True) -> Tensor:
        """``nn.Linear``, ``Linear4bit`` or ``Linear8bitLt``, with its LoRA branch where it is a target."""
        if lora and self.recipe.adapts(linear):
            return self._adapted(x, linear)
        return self._base(x, linear)

    def linear_of_made(self, x: Tensor, linear: Linear) -> Tensor:
        """An adapted product in one function, whose input is made again in backward: saves nothing."""
        base = self._base(x, linear)
        out = Tensor(f"{linear.name} output", base.size, base.shape, base.e, grad=True, storage=base.root)
        grads = (linear.d_in + linear.d_out) * self.recipe.rank * self.recipe.adapter_bytes
        return self.tape.add(Op(f"{linear.name} lora", (base,), out, passes=(base,), reloads=True, weight_grad=grads))

    def _base(self, x: Tensor, linear: Linear) -> Tensor:
        if self.recipe.quant and not (self.recipe.fused_experts and linear.subclass):
            return self._quantized(x, linear)
        x = self.cast(x, self._matmul_bytes(x), f"{linear.name} input")
        return self._matmul(x, linear, trained=self.recipe.full)

    def _matmul_bytes(self, x: Tensor) -> int:
        return self.recipe.compute_bytes if self.recipe.autocast else max(x.e, self.recipe.matrix_bytes)

    def _matmul(self, x: Tensor, linear: Linear, *, trained: bool) -> Tensor:
        """Saves its input when the weight is trained, and the cast copy of a weight that autocast had to make."""
        out = self.tensor(f"{linear.name} output", linear.d_out, x.e, grad=x.grad or trained)
        weight_bytes = self.recipe.matrix_bytes
        copy: tuple[Tensor, ...] = ()
        scratch = ZERO
        if x.e < weight_bytes:
            size = Size(fixed=linear.weight_params * x.e)
            copy = (
                self.constant(f"{linear.name} weight as {_dtype(x.e)}", size, f"{linear.d_out} {linear.d_in}", x.e),
            )
            scratch = size if trained else ZERO
        return self.tape.add(
            Op(
                linear.name,
                (x,),
                out,
                saved=(*copy, *((self.kept(x),) if trained else ())),
                reloads=True,
                runs="apart",
                scratch_backward=scratch + self.regathered(x) if trained else scratch,
                weight_grad=linear.params * weight_bytes if trained else 0,
            )
        )

    def _quantized(self, x: Tensor, linear: Linear) -> Tensor:
        """``Linear4bit`` or ``Linear8bitLt``."""
        return self._eight_bit(x, linear) if self.recipe.quant == "int8" else self._four_bit(x, linear)

    def _four_bit(self, x: Tensor, linear: Linear) -> Tensor:
        """The weight is dequantised for the product, in forward and again in backward. Saves the packed weight only.

        The output takes the input's dtype. Older versions hang the input on ``ctx.tensors``, too. Source: bitsandbytes
        0.50 nn/modules.py, autograd/_functions.py MatMul4Bit; torchao 0.9 dtypes/nf4tensor.py LinearNF4.
        """
        inner = self.cast(x, self.recipe.compute_bytes, f"{linear.name} input")
        scratch = self.dequantized(linear)
        out = self.tensor(f"{linear.name} output", linear.d_out, inner.e, grad=x.grad)
        kept = (self.kept(inner),) if self.recipe.keeps_4bit_input and inner.grad else ()
        made = self.tape.add(
            Op(
                linear.name,
                (inner,),
                out,
                saved=kept,
                attached=kept,
                reloads=True,
                runs="apart",
                scratch_forward=scratch,
                scratch_backward=scratch,
            )
        )
        return self.cast(made, x.e, f"{linear.name} output")

    def dequantized(self, linear: Linear) -> Size:
        """Scratch memory of a 4-bit matrix in 16 bits; none of others."""
        recipe = self.recipe
        if recipe.quant not in ("nf4", "fp4"):
            return ZERO
        if recipe.keeps_dequantized and recipe.adapts(linear):
            return ZERO
        if recipe.torchao:
            return Size(fixed=torchao_nf4_scratch(linear.weight_params))
        return Size(fixed=dequantized_bytes(linear.weight_params, recipe.compute_bytes, nested=recipe.double_quant))

    def _eight_bit(self, x: Tensor, linear: Linear) -> Tensor:
        """LLM.int8(): saves its input as it came; the product has an int32 result; backward dequantises the weight.

        Forward makes a 16-bit copy of the input, its absolute values and outlier mask (threshold 6.0), and the 8-bit
        rows. The input hangs on ``ctx.tensors``, not on ``save_for_backward``: a checkpoint that recomputes by hooks
        does not free it. Source: bitsandbytes 0.45 to 0.50 autograd/_functions.py MatMul8bitLt.
        """
        out = self.tensor(f"{linear.name} output", linear.d_out, x.e, grad=x.grad)
        return self.tape.add(
            Op(
                linear.name,
                (x,),
                out,
                saved=(self.kept(x),),
                attached=(self.kept(x),),
                runs="apart",
                scratch_forward=Size(token=(2 + 2 + 1 + 1) * linear.d_in + 4 * linear.d_out),
                scratch_backward=Size(fixed=linear.weight_params * x.e),
            )
        )

    def _adapted(self, x: Tensor, linear: Linear) -> Tensor:
        """PEFT's LoRA layer: ``base(x) + B(A(dropout(x))) * scaling``.

        Saves the input that A reads (a copy, when its dtype differs from x) and A's output.
        """
        recipe = self.recipe
        base = self._base(x, linear)
        if recipe.quant in ("nf4", "fp4") and not recipe.torchao and "lora_mlp" not in recipe.fused:
            base = self.unary(base, f"{linear.name} clone", saves="nothing")
        if "lora" in recipe.fused or (recipe.quant and "lora_quantized" in recipe.fused):
            return self._fused_branch(x, base, linear)
        casts = not (recipe.quant and recipe.autocast)
        inner = wide = self.cast(x, recipe.adapter_bytes, f"{linear.name} lora input") if casts else x
        if recipe.dropout:
            inner = self.dropout(inner, f"{linear.name} lora dropout")
        compute = recipe.compute_bytes if recipe.autocast else recipe.adapter_bytes
        inner = self.cast(inner, compute, f"{linear.name} lora input")
        low = self._low_rank(inner, linear, "A", recipe.rank, linear.d_in * recipe.rank)
        high = self._low_rank(low, linear, "B", linear.d_out, linear.d_out * recipe.rank)
        scaled = self.unary(high, f"{linear.name} lora scaled", saves="nothing")
        if recipe.quant and not recipe.autocast:
            scaled = self.cast(scaled, base.e)
        joined = self.add(base, scaled, f"{linear.name} output")
        self.name(wide)
        out = self.cast(joined, base.e, f"{linear.name} output")
        self.name(wide)
        return out

    def _low_rank(self, x: Tensor, linear: Linear, letter: str, width: int, params: int) -> Tensor:
        out = self.tensor(f"{linear.name} lora {letter} output", width, x.e)
        copy: tuple[Tensor, ...] = ()
        if x.e < self.recipe.adapter_bytes:
            name = f"{linear.name} lora {letter} weight as {_dtype(x.e)}"
            copy = (self.constant(name, Size(fixed=params * x.e), f"{params}", x.e),)
        return self.tape.add(
            Op(
                f"{linear.name} lora {letter}",
                (x,),
                out,
                saved=(self.kept(x), *copy),
                runs="apart",
                scratch_backward=self.regathered(x),
                weight_grad=params * self.recipe.adapter_bytes,
            )
        )

    def _fused_branch(self, x: Tensor, base: Tensor, linear: Linear) -> Tensor:
        """Unsloth's and fms' fused LoRA: adds into the base output, recomputes A(x) in backward.

        Saves x itself, and with dropout one dropped copy without a mask.
        """
        dropped = (self.constant(f"{linear.name} dropped input", x.size, x.shape, x.e),) if self.recipe.dropout else ()
        out = Tensor(f"{linear.name} output", base.size, base.shape, base.e, grad=True, storage=base.root)
        weight_grad = (linear.d_in + linear.d_out) * self.recipe.rank * self.recipe.adapter_bytes
        return self.tape.add(
            Op(
                f"{linear.name} lora",
                (x, base),
                out,
                saved=(self.kept(x), *dropped),
                passes=(base,),
                runs="apart",
                scratch_backward=self.regathered(x),
                weight_grad=weight_grad,
            )
        )


def _dtype(e: int) -> str:
    return {1: "uint8", 2: "16-bit", 4: "fp32", 8: "int64"}[e]
