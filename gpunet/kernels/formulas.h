// Every scalar formula once, for both devices: NVRTC builds it for CUDA, g++ for the CPU.
// T is float or double. No library calls but fma and the bit casts below.
