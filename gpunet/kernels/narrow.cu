// Numbers in bfloat16.

KERNEL narrow(const float* x, unsigned short* y, long long size) {
    EACH(i, size) y[i] = narrowed(x[i]);
}
