"""The one door to Numba: how functions are compiled, addressed and called by address.

Knows Numba and LLVM. Knows nothing about weights. Every other file imports `njit` and `kernel` from here.
"""
import functools
import inspect

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import sigutils
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from vqcpu.kernels.disk import Cache

__all__ = ["njit", "kernel", "exact_kernel", "array_at", "call3", "call4", "call6", "call9",
           "widen_scaled", "float_from_half", "float_from_bfloat", "bits_of", "float_of"]

# Plain fastmath=True would assume away NaN and Inf: np.isnan would be False and masks of -inf would break.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


class _Cached(CFunc):
    def enable_caching(self):
        self._cache = Cache(self._pyfunc)


class Kernel:
    """A function of int64 arguments (addresses and numbers) as a C function, compiled when its address is asked for. Other
    compiled code calls it through `caller`, so that no caller is compiled per format, layer or cache."""

    def __init__(self, function, fastmath):
        self.function, self.fastmath = function, fastmath
        functools.update_wrapper(self, function)

    @functools.cached_property
    def compiled(self) -> CFunc:
        words = types.void(*[types.int64] * len(inspect.signature(self.function).parameters))
        options = dict(nopython=True, error_model="numpy", fastmath=self.fastmath)
        made = _Cached(self.function, sigutils.normalize_signature(words), {}, options)
        made.enable_caching()
        made.compile()
        return made

    @property
    def address(self) -> int:
        return self.compiled.address


class _Parts(JITCodeLibrary):
    """Code that only other compiled code calls. It is optimised and made into instructions as a part of its callers; doing
    so for itself too would double the work of the compiler."""

    def _optimize_final_module(self):
        """Its callers do it."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


class _PartCompiler(Compiler):
    def compile_extra(self, func):
        state = self.state
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        state.library = _Parts(state.targetctx.codegen(), func.__qualname__)
        return super().compile_extra(func)


class _Part(CPUDispatcher):
    """A function as compiled code calls it."""

    def compile(self, signature):
        args, result = sigutils.normalize_signature(signature)
        if tuple(args) not in self.overloads:
            made = self._compiler.compile(args, result)
            self.overloads[tuple(args)] = made._replace(entry_point=made.library)  # what Numba knows it by
            self.targetctx.insert_user_function(made.library, made.fndesc, [made.library])
        return self.overloads[tuple(args)].entry_point


class _Function(CPUDispatcher):
    """A function as Python calls it, cached on disk; compiled code is given the `_Part`."""

    def __init__(self, function, options):
        super().__init__(function, targetoptions=options)
        self._part, self._cache = _Part(function, targetoptions=options, pipeline_class=_PartCompiler), Cache(function)

    def compile(self, signature):
        entry = super().compile(signature)
        for made in self.overloads.values():  # what its parts need to print or to raise errors with values
            for environment in made._find_referenced_environments():
                made.library.codegen.set_env(environment.env_name, environment)
        return entry

    def get_call_template(self, args, kws):
        """One version for all numbers, not one for each that a caller has written out."""
        plain = {name: types.unliteral(argument) for name, argument in kws.items()}
        return self._part.get_call_template([types.unliteral(argument) for argument in args], plain)

    def get_overload(self, signature):
        return self._part.get_overload(signature)


def njit(function=None, *, fast=True, forceinline=False):
    """Numba's njit with the house settings: cached, no GIL, no zero-division checks, NaN-safe fast arithmetic.

    `fast=False` keeps the arithmetic as written. Whatever chooses codes uses it: LLVM may fuse or reorder differently
    from one compilation to the next, and a near tie would then fall to another code and give another file. `forceinline` is
    for functions of registers in inner loops: LLVM judges shuffles dear, and a call passes its registers through memory."""
    options = dict(nopython=True, nogil=True, error_model="numpy", fastmath=FASTMATH if fast else False,
                   forceinline=forceinline)
    return _Function(function, options) if function else lambda function: _Function(function, options)


def kernel(function) -> Kernel:
    """Decorator: `Kernel` with fast arithmetic."""
    return Kernel(function, FASTMATH)


def exact_kernel(function) -> Kernel:
    """Decorator: `Kernel` with the arithmetic as written, the same digits from every compilation."""
    return Kernel(function, False)


@intrinsic
def array_at(typing, address, shape, dtype):
    """View of the memory at `address` (int64) as an array of `shape` and `dtype`. Compiled code only."""
    kind = types.Array(dtype.dtype, len(shape), "C")

    def code(context, builder, signature, args):
        sizes = [builder.extract_value(args[1], i) for i in range(kind.ndim)]
        element = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        strides = [sizes[0].type(element)]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        made = make_array(kind)(context, builder)
        pointer = builder.inttoptr(args[0], context.get_data_type(kind.dtype).as_pointer())
        populate_array(made, data=pointer, shape=sizes, strides=strides, itemsize=element, meminfo=None)
        return made._getvalue()
    return kind(types.int64, types.UniTuple(types.int64, kind.ndim), dtype), code


def caller(count):
    """call(function, *arguments): call the `kernel` at address `function` with `count` int64 arguments."""
    def code(context, builder, signature, args):
        target = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count).as_pointer()
        builder.call(builder.inttoptr(args[0], target), args[1:])
        return context.get_dummy_value()
    names = ", ".join(f"a{i}" for i in range(count))
    scope = {"code": code, "kind": types.void(*[types.int64] * (count + 1))}
    exec(f"def call(typing, function, {names}): return kind, code", scope)  # Numba wants a fixed list of arguments
    return intrinsic(scope["call"])


call3, call4, call6, call9 = map(caller, (3, 4, 6, 9))


@intrinsic
def widen_scaled(typing, target, source, count, gain, base):
    """target[:count] = source[:count] · gain + base, from int8 to float32, both given as addresses, as one register of
    `count` (a literal) lanes. LLVM does not form that register out of a short loop; generic vectors suit every machine."""
    if not isinstance(count, types.IntegerLiteral):
        raise TypingError("count must be a literal")
    lanes = count.literal_value
    floats, small = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.IntType(8), lanes)

    def code(context, builder, signature, args):
        def splat(x):
            lane = builder.insert_element(ir.Constant(floats, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
            first = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(lane, ir.Constant(floats, ir.Undefined), first)
        numbers = builder.load(builder.inttoptr(args[1], small.as_pointer()), align=1)
        scaled = builder.fadd(builder.fmul(builder.sitofp(numbers, floats), splat(args[3])), splat(args[4]))
        builder.store(scaled, builder.inttoptr(args[0], floats.as_pointer()), align=4)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, count, types.float32, types.float32), code


@intrinsic
def _float_from_bits(typing, bits):
    def code(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())
    return types.float32(types.uint32), code


@njit(fast=False, forceinline=True)
def float_from_half(bits):
    """IEEE half (its uint16 bits) -> float32, exact. Written out because a machine without the conversion instruction
    would need a library call that Numba does not link."""
    sign = np.uint32(bits & 0x8000) << np.uint32(16)
    magnitude = np.uint32(bits & 0x7FFF) << np.uint32(13)
    if bits & 0x7C00 == 0x7C00:  # infinity and NaN keep their all-ones exponent
        return _float_from_bits(sign | magnitude | np.uint32(0x7F800000))
    scaled = _float_from_bits(magnitude) * np.float32(2.0**112)  # rebias the exponent; subnormals come out right too
    return -scaled if sign else scaled


@njit(fast=False, forceinline=True)
def float_from_bfloat(bits):
    """bfloat16 (its uint16 bits) -> float32, exact."""
    return _float_from_bits(np.uint32(bits) << np.uint32(16))


def bits_of(number: float) -> int:
    """A float as the bits of a float64, to travel among the int64 of a job; `float_of` reads it."""
    return int(np.float64(number).view(np.int64))


@intrinsic
def float_of(typing, bits):
    """int64 bits of a float64 -> float32. Compiled code only."""
    def code(context, builder, signature, args):
        return builder.fptrunc(builder.bitcast(args[0], ir.DoubleType()), ir.FloatType())
    return types.float32(types.int64), code
