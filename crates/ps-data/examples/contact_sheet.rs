//! Draws `docs/digits.png`, the first twenty of each built-in digit.
//!
//! `cargo run --release -p ps-data --example contact_sheet [-- PATH]`

use ps_data::{DataConfig, Features, NoProgress, Task, load};
use std::path::Path;

const COLUMNS: usize = 20;
const SIDE: usize = 28;
/// Width and height in the sheet of one pixel of a drawing.
const ZOOM: usize = 2;
const GAP: usize = 6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/digits.png").into());
    // The set is balanced: 200 drawings contain 20 of each digit.
    let loaded = load(&DataConfig::new("digits:200"), Task::Classes, 1, Path::new("."), &NoProgress)?;
    let dataset = loaded.train.dataset();
    let Features::U8(pixels) = &dataset.features else { return Err("digits are bytes".into()) };

    let step = SIDE * ZOOM + GAP;
    let (width, height) = (COLUMNS * step + GAP, 10 * step + GAP);
    let mut sheet = vec![255_u8; width * height];
    let mut column_of = [0; 10];
    for (row, &target) in dataset.targets.iter().enumerate() {
        let digit = target as usize;
        let (left, top) = (GAP + column_of[digit] * step, GAP + digit * step);
        column_of[digit] += 1;
        for y in 0..SIDE * ZOOM {
            for x in 0..SIDE * ZOOM {
                sheet[(top + y) * width + left + x] = 255 - pixels[[row, y / ZOOM * SIDE + x / ZOOM]];
            }
        }
    }
    let mut encoder = png::Encoder::new(
        std::io::BufWriter::new(std::fs::File::create(&path)?),
        width as u32,
        height as u32,
    );
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(&sheet)?;
    println!("{path}");
    Ok(())
}
