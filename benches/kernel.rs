//! The matrix products of the models' layers on one thread, compared with the core's peak and with the crates
//! `matrixmultiply` and `gemm`, which do not promise reproducible bits.

use downhill_benches::main as bench;
use ps_bench::kernel::{self, SHAPES, Shape};
use ps_bench::{Bench, Entrant, Error};
use ps_core::Kernel;
use std::process::ExitCode;

/// The crates that compute the same products.
#[derive(Clone, Copy)]
enum Peer {
    Matrixmultiply,
    Gemm,
}

/// Strides of a row-major matrix or of its transpose: the distance between rows and between columns.
#[derive(Clone, Copy)]
struct Strides(isize, isize);

fn main() -> ExitCode {
    bench(&["kernel", "tree/weight-gradient"], measure)
}

fn measure(bench: &mut Bench) -> Result<(), Error> {
    let kernels: Vec<Kernel> =
        Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar").collect();
    let mut slower = Vec::new();
    for (index, kernel) in kernels.iter().enumerate() {
        println!("\n{}, one thread", kernel.name());
        for shape in SHAPES {
            // The other crates choose the widest vectors themselves, so they run only once.
            let peers = if index == 0 { peers(shape) } else { Vec::new() };
            let rates = kernel::products(bench, shape, *kernel, peers)?;
            slower.extend(losses(&rates));
        }
        for shape in SHAPES {
            kernel::tree(bench, shape, *kernel)?;
        }
    }
    println!();
    match slower.as_slice() {
        [] => println!("no product is slower than that of matrixmultiply or gemm"),
        slower => slower.iter().for_each(|loss| println!("{loss}")),
    }
    Ok(())
}

/// Returns all products of `shape` by all other crates, without bias, activation and leaves.
fn peers<'a>(shape: Shape) -> Vec<Entrant<'a>> {
    let Shape { rows, inputs, outputs } = shape;
    let plain = |columns: usize| Strides(columns as isize, 1);
    let transposed = |columns: usize| Strides(1, columns as isize);
    let mut entrants = Vec::new();
    for (peer, name) in [(Peer::Matrixmultiply, "matrixmultiply"), (Peer::Gemm, "gemm")] {
        // For each product, its extents [m, k, n] and the strides of its operands. x is [rows, inputs], w is
        // [outputs, inputs], and the gradient of the outputs is [rows, outputs].
        for (product, extents, left, right) in [
            ("forward", [rows, inputs, outputs], plain(inputs), transposed(inputs)),
            ("input-gradient", [rows, outputs, inputs], plain(outputs), plain(inputs)),
            ("weight-gradient", [outputs, rows, inputs], transposed(outputs), plain(inputs)),
        ] {
            let [m, k, n] = extents;
            let (a, b, mut c) = (vec![0.5_f32; m * k], vec![0.25_f32; k * n], vec![0.0_f32; m * n]);
            entrants.push(Entrant::new(format!("kernel/{product}/{shape}/{name}"), move || {
                multiply(peer, extents, (&a, left), (&b, right), &mut c);
            }));
        }
    }
    entrants
}

/// Computes `c = a b`, where `a` is `[m, k]`, `b` is `[k, n]` and `c` is `[m, n]`, all row-major.
fn multiply(
    peer: Peer,
    [m, k, n]: [usize; 3],
    (a, Strides(a_row, a_column)): (&[f32], Strides),
    (b, Strides(b_row, b_column)): (&[f32], Strides),
    c: &mut [f32],
) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
    let row = n as isize;
    match peer {
        // SAFETY: the slices have as many elements as the extents require, and the strides are those of a
        // complete matrix or of its transpose.
        Peer::Matrixmultiply => unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            matrixmultiply::sgemm(m, k, n, 1.0, a, a_row, a_column, b, b_row, b_column, 0.0, c, row, 1);
        },
        // SAFETY: as above; `c` is not read.
        Peer::Gemm => unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            let alone = gemm::Parallelism::None;
            gemm::gemm(
                m, n, k, c, 1, row, false, a, a_column, a_row, b, b_column, b_row, 0.0, 1.0, false, false,
                false, alone,
            );
        },
    }
}

/// Lists the products at which another crate is faster.
fn losses(rates: &[(String, f64)]) -> Vec<String> {
    let mut losses = Vec::new();
    for (name, rate) in rates {
        for (peer, other) in rates.iter().filter(|(peer, _)| peer.starts_with(&format!("{name}/"))) {
            if other > rate {
                losses.push(format!("slower: {name} at {rate:.1} GFLOP/s, {peer} at {other:.1}"));
            }
        }
    }
    losses
}
