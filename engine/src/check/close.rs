//! The one comparison of numbers.

/// How far `got` may be from `want`: `absolute + relative * |want|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// Coordinates of a flat, row-major position.
fn coordinates(shape: &[usize], mut flat: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &size) in shape.iter().enumerate().rev() {
        index[i] = flat % size;
        flat /= size;
    }
    index
}

/// Compares element by element. NaN equals nothing; infinities equal themselves.
///
/// # Errors
/// The first and the worst difference with coordinates, values, errors and tolerance, and how many there are.
pub fn compare(
    what: &str,
    shape: &[usize],
    got: &[f64],
    want: &[f64],
    tolerance: Tolerance,
) -> Result<(), String> {
    let numel: usize = shape.iter().product();
    if got.len() != want.len() || got.len() != numel {
        return Err(format!(
            "{what}: {} values got, {} wanted, shape {shape:?} has {numel}",
            got.len(),
            want.len()
        ));
    }
    let error = |i: usize| (got[i] - want[i]).abs();
    let allowed = |i: usize| tolerance.absolute + tolerance.relative * want[i].abs();
    let wrong: Vec<usize> = (0..numel)
        .filter(|&i| got[i] != want[i] && !(error(i) <= allowed(i) && want[i].is_finite()))
        .collect();
    let Some(&first) = wrong.first() else { return Ok(()) };
    // NaN counts as the worst of all.
    let excess = |i: usize| if error(i).is_nan() { f64::INFINITY } else { error(i) / allowed(i) };
    let worst = wrong.iter().copied().max_by(|&a, &b| excess(a).total_cmp(&excess(b))).unwrap_or(first);
    let describe = |i: usize| {
        format!(
            "at {:?} got {:e}, want {:e} (off by {:e}, {:e} relative; allowed {:e})",
            coordinates(shape, i),
            got[i],
            want[i],
            error(i),
            error(i) / want[i].abs(),
            allowed(i)
        )
    };
    Err(format!(
        "{what} {shape:?}: {} of {numel} differ; first {}; worst {}",
        wrong.len(),
        describe(first),
        describe(worst)
    ))
}

/// [`compare`], as an assertion.
#[track_caller]
pub fn assert_close(what: &str, shape: &[usize], got: &[f64], want: &[f64], tolerance: Tolerance) {
    if let Err(message) = compare(what, shape, got, want, tolerance) {
        panic!("{message}");
    }
}

/// Root of the mean square of the finite values; 0 for none.
pub fn rms(values: &[f64]) -> f64 {
    let finite = || values.iter().filter(|x| !x.is_infinite());
    let count = finite().count();
    if count == 0 { 0.0 } else { (finite().map(|x| x * x).sum::<f64>() / count as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Tolerance = Tolerance { absolute: 0.0, relative: 1e-6 };
    const ANY: Tolerance = Tolerance { absolute: f64::INFINITY, relative: 0.0 };

    #[test]
    fn close_and_equal_values_pass() {
        assert_close("x", &[3], &[1.0, -2.0, f64::INFINITY], &[1.0 + 1e-7, -2.0, f64::INFINITY], TIGHT);
        assert_close("empty", &[0, 3], &[], &[], TIGHT);
    }

    #[test]
    fn nan_and_infinity_fail_at_any_tolerance() {
        for (got, want) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::NAN, f64::NAN),
            (1.0, f64::INFINITY),
            (f64::NEG_INFINITY, f64::INFINITY),
        ] {
            assert!(compare("x", &[1], &[got], &[want], ANY).is_err(), "{got} passed for {want}");
        }
        assert!(compare("x", &[1], &[f64::INFINITY], &[1.0], TIGHT).is_err());
        let undefined = Tolerance { absolute: f64::NAN, relative: 0.0 };
        assert!(compare("x", &[1], &[1.0], &[1.5], undefined).is_err(), "a NaN tolerance must not pass");
    }

    #[test]
    fn short_slices_fail() {
        assert!(compare("x", &[2], &[1.0], &[1.0, 1.0], TIGHT).is_err());
        assert!(compare("x", &[2], &[1.0], &[1.0], TIGHT).is_err());
        assert!(compare("x", &[1], &[1.0, 1.0], &[1.0, 1.0], TIGHT).is_err());
    }

    #[test]
    fn the_message_names_place_count_and_worst() {
        let want = [1.0; 6];
        let mut got = want;
        (got[1], got[5]) = (1.5, -3.0);
        let message = compare("out", &[2, 3], &got, &want, TIGHT).unwrap_err();
        assert_eq!(
            message,
            "out [2, 3]: 2 of 6 differ; first at [0, 1] got 1.5e0, want 1e0 (off by 5e-1, 5e-1 relative; allowed 1e-6); \
             worst at [1, 2] got -3e0, want 1e0 (off by 4e0, 4e0 relative; allowed 1e-6)"
        );
        got[0] = f64::NAN;
        assert!(compare("out", &[2, 3], &got, &want, TIGHT).unwrap_err().contains("worst at [0, 0] got NaN"));
    }
}
