//! Matrix products on the emulated GPU, all its checks on, beyond the shapes of the cards: every tile at its edges in every layout,
//! splits, strides, epilogues, and what is refused.

use std::sync::OnceLock;

use handloom_kernels::check::matmul::{Case, Fused, Guarded, Judge, LAYOUTS, edges};
use handloom_kernels::check::reference::{Place, Random};
use handloom_kernels::device::{Driver, Gpu};
use handloom_kernels::elem::Elem;
use handloom_kernels::gelu::Form;
use handloom_kernels::manifest::embedded;
use handloom_kernels::matmul::column_sums;
use handloom_kernels::matmul::plan::{ANY_TILE, Math, Plan};

const MATHS: [Math; 4] = [Math::F32, Math::Tf32, Math::F16, Math::Bf16];

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        // SAFETY: nothing else in this program reads or writes the environment; the driver does when it is opened, here.
        unsafe { std::env::set_var("HANDLOOM_EMULATOR", "arch=sm_80") };
        Gpu::open(Driver::Emulated, 0).expect("the emulated driver is built with the tests")
    })
}

#[track_caller]
fn check(case: Case) {
    case.check(gpu()).unwrap_or_else(|message| panic!("{message}"));
}

#[test]
fn every_tile_at_its_edges_in_every_layout() {
    for math in MATHS {
        for tile in math.tiles() {
            edges(math, tile).for_each(check);
        }
    }
}

#[test]
fn tiles_cover_the_output_once_whatever_the_raster() {
    for raster in [1, 3, 8, 100] {
        let tile = Math::Bf16.tiles()[2];
        let plan = Some(Plan { raster, ..Plan::new(tile, 16, 1) });
        check(Case { plan, ..Case::new(Math::Bf16, [5 * 64 + 1, 3 * 64 + 1, 16], true, false) });
    }
}

#[test]
fn splits_are_summed_before_the_epilogue() {
    for math in MATHS {
        for tile in math.tiles() {
            let k = 9 * tile.bk + 3;
            for (splits, fused) in [
                (2, Fused::Bias),
                (5, Fused::Residual),
                (10, Fused::Gelu(Form::Tanh)),
                (3, Fused::GeluAlone(Form::Erf)),
            ] {
                let plan = Plan::new(*tile, k, splits);
                assert_eq!(plan.splits, splits);
                for sizes in [[67, 65, k], [5, 66, k]] {
                    let case = Case::new(math, sizes, true, false);
                    check(Case { plan: Some(plan), fused, accumulate: splits == 2, ..case });
                }
            }
        }
    }
}

#[test]
fn gradients_of_parameters_accumulate_in_f32() {
    for math in [Math::F16, Math::Bf16] {
        for splits in [1, 4] {
            for tile in math.tiles() {
                let sizes = [tile.bm + 1, 70, 8 * tile.bk];
                let plan = Some(Plan::new(*tile, sizes[2], splits));
                let case = Case::new(math, sizes, false, false);
                let out = Place::aligned(1, sizes[0], sizes[1], Elem::F32);
                check(Case { plan, out, out_elem: Elem::F32, accumulate: true, ..case });
            }
        }
        // Logits in f32 of half operands, with a bias.
        let case = Case::new(math, [33, 65, 40], true, true);
        let out = Place::aligned(1, 33, 65, Elem::F32);
        check(Case { out, out_elem: Elem::F32, fused: Fused::Bias, ..case });
    }
}

#[test]
fn every_epilogue_in_every_layout_and_dtype() {
    let fused = [
        Fused::Nothing,
        Fused::Bias,
        Fused::Gelu(Form::Tanh),
        Fused::Gelu(Form::Erf),
        Fused::GeluAlone(Form::Tanh),
        Fused::Residual,
        Fused::GeluBackward(Form::Tanh),
        Fused::GeluBackward(Form::Erf),
    ];
    for math in MATHS {
        for (lhs_k, rhs_k) in LAYOUTS {
            for fused in fused {
                for accumulate in [false, true] {
                    let sizes = [67, 77, 37];
                    check(Case { fused, accumulate, ..Case::new(math, sizes, lhs_k, rhs_k) });
                }
            }
        }
    }
}

#[test]
fn unaligned_and_strided_operands() {
    for math in MATHS {
        let sizes @ [m, n, k] = [65, 67, 35];
        let case = Case::new(math, sizes, true, false);
        // Rows without padding: no row but the first is aligned.
        let tight = |rows: usize, cols: usize| Place {
            row_stride: cols,
            batch_stride: rows * cols,
            ..Place::aligned(1, rows, cols, case.elem)
        };
        for (lhs, rhs) in [
            (tight(m, k), tight(k, n)),
            (tight(m, k), tight(n, k).t()),
            (tight(k, m).t(), tight(k, n)),
            // Both transposed: no tiled kernel.
            (case.lhs, Place::aligned(1, n, k, case.elem).t()),
            (Place::aligned(1, k, m, case.elem).t(), Place::aligned(1, n, k, case.elem).t()),
            // Aligned strides from an address that is not.
            (Place { start: 1, ..case.lhs }, case.rhs),
            (case.lhs, Place { start: 3, ..case.rhs }),
            // Every third element.
            (Place { col_stride: 3, row_stride: 3 * k + 1, ..case.lhs }, case.rhs),
        ] {
            let out = Place { row_stride: n + 2, start: 1, ..tight(m, n) };
            check(Case { lhs, rhs, out, fused: Fused::Gelu(Form::Erf), accumulate: true, ..case.clone() });
            check(Case { lhs, rhs, ..case.clone() });
        }
        // The guarded kernel takes what the tiled ones take, and splits.
        let plan = Some(Plan::new(ANY_TILE, k, 3));
        check(Case { plan, ..case.clone() });
    }
}

#[test]
fn batches_at_any_distance() {
    for math in MATHS {
        for splits in [1, 2] {
            let tile = math.tiles()[math.tiles().len() - 1];
            let (m, n, k) = (33, 40, 2 * tile.bk);
            let case = Case::new(math, [m, n, k], true, false);
            let lhs = Place { batches: 3, ..case.lhs };
            let rhs = Place { batches: 3, batch_stride: k * case.rhs.row_stride + 16, ..case.rhs };
            let shared = Place { batches: 3, batch_stride: 0, ..case.rhs };
            let out = Place { batches: 3, batch_stride: m * case.out.row_stride + 8, ..case.out };
            let plan = Some(Plan::new(tile, k, splits));
            for rhs in [rhs, shared] {
                check(Case { lhs, rhs, out, plan, fused: Fused::Residual, ..case.clone() });
            }
            // Heads beside each other in the rows of one matrix, as attention has them.
            let heads = Place { batches: 3, row_stride: 3 * k, batch_stride: k, ..case.lhs };
            check(Case { lhs: heads, rhs, out, plan, ..case });
        }
    }
}

#[test]
fn empty_products() {
    for math in MATHS {
        for (lhs_k, rhs_k) in LAYOUTS {
            for sizes in [[0, 5, 7], [5, 0, 7], [5, 7, 0], [0, 0, 0]] {
                let case = Case::new(math, sizes, lhs_k, rhs_k);
                check(case.clone());
                check(Case { fused: Fused::Bias, accumulate: true, ..case });
            }
        }
    }
}

#[test]
fn column_sums_of_any_shape() {
    for elem in [Elem::F32, Elem::F16, Elem::BF16] {
        for (rows, cols) in
            [(0, 3), (1, 1), (3, 0), (7, 257), (8, 256), (300, 24), (513, 31), (1030, 8), (2051, 5)]
        {
            for accumulate in [false, true] {
                let place = Place { row_stride: cols, ..Place::aligned(1, rows, cols, elem) };
                let mut random = Random(rows as u64);
                let inp = place.draw(elem, &mut random);
                let before = Place::aligned(1, 1, cols, Elem::F32).draw(Elem::F32, &mut random);
                let poison = vec![f64::NAN; before.len()];
                let array = Guarded::new(gpu(), &inp, elem).expect("room");
                let mut out =
                    Guarded::new(gpu(), if accumulate { &before } else { &poison }, Elem::F32).expect("room");
                let what = format!("column sums of ({rows}, {cols}) {elem:?}");
                column_sums(gpu(), out.slice_mut(), array.slice(), rows, cols, accumulate)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let got = out.read().unwrap_or_else(|message| panic!("{what}: {message}"));
                let mut judge = Judge::default();
                for c in 0..cols {
                    let column = || (0..rows).map(|r| inp[place.at(0, r, c)]);
                    let start = if accumulate { before[c] } else { 0.0 };
                    let plain = column().fold(0.0f32, |sum, x| sum + x as f32) + start as f32;
                    judge.add(got[c], column().sum::<f64>() + start, plain as f64);
                }
                judge.verdict(&what).unwrap_or_else(|message| panic!("{message}"));
            }
        }
    }
}

/// Registers and shared memory of the compiled kernels against what the plan counts on.
#[test]
fn as_many_blocks_reside_as_the_plan_says() {
    for (math, dtype) in [(Math::F32, "f32"), (Math::Tf32, "tf32"), (Math::F16, "f16"), (Math::Bf16, "bf16")]
    {
        for tile in math.tiles() {
            for layout in ["nn", "nt", "tn"] {
                let entry = format!("matmul_{layout}_{}x{}_{dtype}", tile.bm, tile.bn);
                let usage =
                    embedded().usage(&entry).unwrap_or_else(|| panic!("{entry} is not in the manifest"));
                let blocks = usage.resident_blocks(tile.threads, tile.shared_bytes as u32);
                assert!(
                    blocks as usize >= tile.resident,
                    "{entry}: {blocks} of {} blocks fit, {usage:?}",
                    tile.resident
                );
            }
        }
    }
}

#[test]
fn what_is_refused_says_why() {
    let case = Case::new(Math::Bf16, [4, 8, 8], true, false);
    let message = |case: Case| case.launch(gpu()).expect_err("refused").to_string();
    let overlapping = Place { row_stride: 7, ..case.out };
    assert_eq!(
        message(Case { out: overlapping, ..case.clone() }),
        "matmul: rows of out overlap: 8 columns, 7 from row to row"
    );
    assert_eq!(
        message(Case { out_elem: Elem::F16, ..case.clone() }),
        "matmul: out is f16, expected bf16 as the operands, or f32"
    );
    assert_eq!(
        message(Case { out_elem: Elem::F32, fused: Fused::Residual, ..case.clone() }),
        "matmul: an f32 out of bf16 operands takes no activation or residual"
    );
    let mut short = case.clone();
    short.rhs.rows = 7;
    assert_eq!(message(short), "matmul: rhs holds 56 elements, expected 64");
    let tile = Math::F32.tiles()[0];
    assert!(
        message(Case { plan: Some(Plan::new(tile, 8, 1)), ..case }).starts_with("matmul: Bf16 has no tile")
    );
}
