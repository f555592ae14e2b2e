// Takes the names of tile_avx512.h back.

#undef MULTIPLY
#undef AHEAD
#undef ROW
#undef STEP
#undef STEPS
#undef EACH_ROW
#undef CLEAR
#undef KEEP
#undef REGISTERS
