//! Elementary functions that give the same bits on every machine: short polynomials of fused multiply-adds.
//!
//! The `f32` functions compute activations and losses, and are vectorised when inlined into a loop. Their
//! coefficients are minimax fits (Remez) rounded to binary32; `docs/numerics.md` lists every operation. The
//! `f64` functions compute schedules and use plain series.

#![allow(clippy::excessive_precision)] // Coefficients are written as the binary32 they are.

/// Adding this to a small number and subtracting it again rounds the number to an integer (ties to even).
const ROUND_F32: f32 = 12_582_912.0;

/// Computes e^x within 2 units in the last place; 0 below -87, infinite above 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND_F32);
    let n = shifted - ROUND_F32;
    // ln 2 is subtracted in two parts. The first one has few bits, so that its product with n is exact.
    let r = n.mul_add(-0.693_359_375, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let q = 0.001_395_060_3_f32
        .mul_add(r, 0.008_368_953)
        .mul_add(r, 0.041_666_206)
        .mul_add(r, 0.166_665_18)
        .mul_add(r, 0.5);
    let y = (r * r).mul_add(q, r) + 1.0;
    // 2^n, from the integer n in the low bits of `shifted`.
    let exponent = shifted.to_bits().wrapping_sub(ROUND_F32.to_bits()).wrapping_add(127) << 23;
    let y = y * f32::from_bits(exponent);
    // Within these bounds n is between -126 and 127, so 2^n is a normal number. The special cases are
    // selected at the end rather than returned early, so that a loop around this function is vectorised.
    let y = if x < -87.0 { 0.0 } else { y };
    let y = if x > 88.0 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// The natural logarithm of a normal positive number; -infinity for 0, NaN below.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    // Counting from the square root of 1/2 instead of 1 centres the mantissa on 1, so that f stays small.
    let bits = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let e = ((bits as i32) >> 23) as f32;
    let f = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS)) - 1.0;
    let p = (-0.078_599_475_f32)
        .mul_add(f, 0.128_858_52)
        .mul_add(f, -0.131_304_49)
        .mul_add(f, 0.141_807)
        .mul_add(f, -0.166_243_49)
        .mul_add(f, 0.200_023_03)
        .mul_add(f, -0.250_008_17)
        .mul_add(f, 0.333_333_16);
    let square = f * f;
    let y = (f * square).mul_add(p, e * -2.121_944_4e-4);
    let y = square.mul_add(-0.5, y) + f;
    let y = e.mul_add(0.693_359_375, y);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let square = x * x;
    let p = (-0.005_717_045_2_f32)
        .mul_add(square, 0.020_650_588)
        .mul_add(square, -0.053_743_497)
        .mul_add(square, 0.133_314_91)
        .mul_add(square, -0.333_332_84);
    let small = (magnitude * square).mul_add(p, magnitude);
    let large = 1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0);
    // Close to 0, the difference in `large` would cancel most of its digits.
    let y = if magnitude < 0.625 { small } else { large };
    y.copysign(x)
}

/// The logistic function, 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    // The exponent is never positive, so nothing overflows.
    let e = exp(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { e };
    numerator / (1.0 + e)
}

/// ln(1 + e^x), for the logistic loss.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    positive + ln(1.0 + exp(-x.abs()))
}

/// Computes cos(pi x) for x in [0, 1], by the Taylor series at 0 for the nearer half.
pub(crate) fn cos_pi(x: f64) -> f64 {
    let (x, sign) = if x > 0.5 { (1.0 - x, -1.0) } else { (x, 1.0) };
    let square = (std::f64::consts::PI * x) * (std::f64::consts::PI * x);
    let mut sum = 1.0;
    // 1 - s/(1*2) (1 - s/(3*4) (1 - ...)), from the innermost of 13 brackets outwards.
    for k in (1..=13).rev() {
        let k = f64::from(k);
        sum = 1.0 - square / ((2.0 * k - 1.0) * (2.0 * k)) * sum;
    }
    sign * sum
}

/// Computes `base^exponent` for base >= 0 as e^(exponent ln base); exactly 1 for exponent 0, and `base`
/// for exponent 1.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 {
        1.0
    } else if exponent == 1.0 {
        base
    } else if base == 0.0 {
        0.0
    } else {
        exp_f64(exponent * ln_f64(base))
    }
}

/// The natural logarithm of a normal positive number: halves or doubles it into m in [sqrt(1/2), sqrt(2)),
/// whose logarithm is 2 atanh((m - 1) / (m + 1)).
fn ln_f64(x: f64) -> f64 {
    let mut exponent = ((x.to_bits() >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits(x.to_bits() & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..=12).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// Computes e^x: with x = n ln 2 + r, n the nearest integer (ties away from zero), e^r is 20 terms of the
/// Taylor series, and 2^n is applied by doubling or halving.
fn exp_f64(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    if x > 700.0 {
        return f64::INFINITY;
    }
    let n = (x / std::f64::consts::LN_2).round();
    let r = x - n * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for k in (1..=20).rev() {
        sum = 1.0 + r / f64::from(k) * sum;
    }
    sum * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        name: &str,
        range: std::ops::RangeInclusive<i32>,
        scale: f32,
        tolerance: f64,
        ours: fn(f32) -> f32,
        truth: fn(f64) -> f64,
    ) {
        for i in range {
            let x = i as f32 * scale;
            let (got, wanted) = (f64::from(ours(x)), truth(f64::from(x)));
            let error = (got - wanted).abs() / wanted.abs().max(1e-30);
            assert!(error <= tolerance || got == wanted, "{name}({x}) = {got:e}, not {wanted:e}");
        }
    }

    #[test]
    fn functions_agree_with_the_mathematical_ones() {
        check("exp", -86_000..=87_900, 0.001, 2.5e-7, exp, f64::exp);
        check("ln", 1..=200_000, 0.37, 2e-7, ln, f64::ln);
        check("ln near 1", 990_000..=1_010_000, 1e-6, 1e-5, ln, f64::ln);
        check("tanh", -90_000..=90_000, 0.0001, 3e-7, tanh, f64::tanh);
        check("sigmoid", -80_000..=80_000, 0.001, 4e-7, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    }

    #[test]
    fn edge_cases_follow_ieee_754() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-1e9), exp(1e9)), (0.0, f32::INFINITY));
        assert_eq!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)), (0.0, f32::INFINITY));
        assert_eq!((ln(1.0), ln(0.0), ln(f32::INFINITY)), (0.0, f32::NEG_INFINITY, f32::INFINITY));
        assert!(
            exp(f32::NAN).is_nan() && ln(f32::NAN).is_nan() && ln(-1.0).is_nan() && tanh(f32::NAN).is_nan()
        );
        assert_eq!((tanh(1e9), tanh(-1e9), tanh(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((sigmoid(0.0), sigmoid(1e9), sigmoid(-1e9)), (0.5, 1.0, 0.0));
    }

    #[test]
    fn series_agree_with_the_mathematical_functions() {
        for i in 0..=1000 {
            let x = f64::from(i) / 1000.0;
            assert!((cos_pi(x) - (std::f64::consts::PI * x).cos()).abs() < 1e-15, "cos_pi({x})");
            let (base, exponent) = (0.001 + 2.0 * x, 3.7 * x);
            assert!((pow(base, exponent) / base.powf(exponent) - 1.0).abs() < 1e-14, "{base}^{exponent}");
        }
        assert_eq!((cos_pi(0.5).abs() < 1e-16, cos_pi(0.0), cos_pi(1.0)), (true, 1.0, -1.0));
    }
}
