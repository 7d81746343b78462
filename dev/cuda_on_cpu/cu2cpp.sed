# cu2cpp.sed (sed -E): rewrites the two things in a .cu that are not C++. It adds and removes no line.

# kernel<A, B><<<grid, block>>>(...)  ->  CUDA_LAUNCH(kernel<A, B>).configure(grid, block)(...) A launch may
# go over several lines: each is joined to the next until its >>> has come. A line that could end in a
# kernel's name is joined to the next if that begins with <<<.
:launch
/^[^"]*\/\/.*<<</ b shared
/[A-Za-z0-9_>][[:space:]]*<<</ {
    />>>/! {
        N
        b launch
    }
    s/([A-Za-z_][A-Za-z0-9_:]*(<([^<>;]|<[^<>;]*>)*>)?)([[:space:]]*)<<</CUDA_LAUNCH(\1)\4.configure(/
    t close
    b shared
    :close
    s/>>>/)/
    b launch
}
/\n/! {
    /[A-Za-z0-9_>][[:space:]]*$/ {
        $! {
            N
            /\n[[:space:]]*<<</ b launch
            P
            D
        }
    }
}

# extern __shared__ T name[];  ->  T *name = (T *)the block's dynamic shared memory
:shared
s/extern +(__align__|alignas)(\([^()]*\)) +__shared__/extern __shared__ \1\2/
s/extern +__shared__ +(__align__|alignas)(\([^()]*\)) +/extern __shared__ \2/
s/extern +__shared__ +([^();]*[ *])([A-Za-z0-9_]+)\[\]/extern __shared__ (16)\1\2[]/
s/extern __shared__ (\([^()]*\))([^();]*[ *])([A-Za-z0-9_]+)\[\]/\2*\3 = (\2*)cuda_on_cpu_dynamic_shared\1/
