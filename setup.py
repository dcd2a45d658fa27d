"""The native kernels: built where there is a C++ compiler, left out where there is none."""

import runpy
import sys

from setuptools import Extension, setup

HOME = "gpunet/kernels/"
SOURCES = ("native.cpp", "order.cpp", "loops_float32.cpp", "loops_float64.cpp")
HEADERS = ("native.h", "loops.h", "formulas.h", "slots.py")
FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread")

constants = runpy.run_path(HOME + "slots.py")
native = Extension(
    "gpunet.kernels._native",
    sources=[HOME + name for name in SOURCES],
    depends=[HOME + name for name in HEADERS],
    define_macros=[(name, str(value)) for name, value in constants.items() if name.isupper()],
    extra_compile_args=[] if sys.platform == "win32" else list(FLAGS),
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
    language="c++",
    optional=True,
)

setup(ext_modules=[native])
