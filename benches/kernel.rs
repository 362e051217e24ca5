//! The kernel at the shapes of an MLP's layers, one thread, against the core's peak and against the
//! `matrixmultiply` crate (which promises nothing about bits).

use downhill_benches::{Entrant, PEAK_OPERATIONS, peak_round, race};
use ps_core::Kernel;
use ps_core::gradient::LayerProducts;

fn main() {
    println!("one thread, medians; share of the core's measured peak in brackets");
    println!("{:>28} {:>16} {:>16} {:>16}", "rows x inputs x outputs", "product", "kernel", "GFLOP/s");
    for (rows, inputs, outputs) in [
        (128, 784, 512),
        (128, 512, 256),
        (128, 256, 10),
        (64, 784, 512),
        (128, 2048, 2048),
        (128, 784, 10),
        (1024, 784, 512),
    ] {
        shape(rows, inputs, outputs);
    }
}

fn shape(rows: usize, inputs: usize, outputs: usize) {
    let work = 2.0 * (rows * inputs * outputs) as f64;
    // About 3 ms a round.
    let repeat = ((3e-3 * 80e9 / work) as usize).max(1);
    let mut entrants = vec![Entrant::new("peak", peak_round)];
    for kernel in Kernel::available() {
        if kernel.name() == "scalar" {
            continue;
        }
        let mut layer = LayerProducts::new(kernel, rows, inputs, outputs, 32);
        entrants.push(Entrant::new(format!("forward {}", kernel.name()), move || {
            (0..repeat).for_each(|_| layer.forward())
        }));
        let mut layer = LayerProducts::new(kernel, rows, inputs, outputs, 32);
        entrants.push(Entrant::new(format!("input-gradient {}", kernel.name()), move || {
            (0..repeat).for_each(|_| layer.input_gradient())
        }));
        for leaf in [32, 64, rows] {
            let mut layer = LayerProducts::new(kernel, rows, inputs, outputs, leaf);
            let mut gradient = vec![0.0; (inputs + 1) * outputs];
            let label = if leaf == rows { "no-leaves".into() } else { format!("leaf-{leaf}") };
            entrants.push(Entrant::new(format!("weight-gradient/{label} {}", kernel.name()), move || {
                (0..repeat).for_each(|_| layer.weight_gradient(&mut gradient))
            }));
        }
        let mut layer = LayerProducts::new(kernel, rows, inputs, outputs, 32);
        entrants.push(Entrant::new(format!("packing {}", kernel.name()), move || {
            (0..repeat).for_each(|_| layer.pack())
        }));
    }
    let (x, w) = (vec![0.5_f32; rows * inputs], vec![0.25_f32; inputs * outputs]);
    let mut y = vec![0.0_f32; rows * outputs];
    let (x2, mut dw) = (x.clone(), vec![0.0_f32; inputs * outputs]);
    let dy = vec![0.25_f32; rows * outputs];
    entrants.push(Entrant::new("forward matrixmultiply", move || {
        for _ in 0..repeat {
            // SAFETY: x is [rows, inputs], w is [outputs, inputs] read transposed, y is [rows, outputs].
            unsafe {
                matrixmultiply::sgemm(
                    rows,
                    inputs,
                    outputs,
                    1.0,
                    x.as_ptr(),
                    inputs as isize,
                    1,
                    w.as_ptr(),
                    1,
                    inputs as isize,
                    0.0,
                    y.as_mut_ptr(),
                    outputs as isize,
                    1,
                );
            }
        }
    }));
    entrants.push(Entrant::new("weight-gradient/no-leaves matrixmultiply", move || {
        for _ in 0..repeat {
            // SAFETY: dy is [rows, outputs] read transposed, x2 is [rows, inputs], dw is [outputs, inputs].
            unsafe {
                matrixmultiply::sgemm(
                    outputs,
                    rows,
                    inputs,
                    1.0,
                    dy.as_ptr(),
                    1,
                    outputs as isize,
                    x2.as_ptr(),
                    inputs as isize,
                    1,
                    0.0,
                    dw.as_mut_ptr(),
                    inputs as isize,
                    1,
                );
            }
        }
    }));
    let times = race(&mut entrants, 21);
    let peak = PEAK_OPERATIONS / times[0];
    println!(
        "{:>28} {:>35} {:>14.1}",
        format!("{rows} x {inputs} x {outputs}"),
        "fused multiply-add peak",
        peak / 1e9
    );
    for (entrant, time) in entrants.iter().zip(&times).skip(1) {
        let rate = work * repeat as f64 / time;
        if entrant.name.starts_with("packing") {
            println!("{:>28} {:>35} {:>11.1} us", "", entrant.name, time / repeat as f64 * 1e6);
        } else {
            println!("{:>28} {:>35} {:>14.1} ({:.0} %)", "", entrant.name, rate / 1e9, 100.0 * rate / peak);
        }
    }
}
