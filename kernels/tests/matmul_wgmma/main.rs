//! Matrix products by Hopper's kernels on an emulated H100, all its checks on: tiles at their edges in every layout, rings that go
//! round, splits, epilogues, strides, batches, and what is left to the other kernels.

use std::sync::OnceLock;

use handloom_kernels::check::matmul::{Case, Fused, edges, tiles};
use handloom_kernels::check::reference::Place;
use handloom_kernels::device::{Driver, Gpu};
use handloom_kernels::elem::Elem;
use handloom_kernels::gelu::Form;
use handloom_kernels::matmul::plan::{Math, Plan};

const MATHS: [Math; 2] = [Math::F16, Math::Bf16];

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        // SAFETY: nothing else in this program reads or writes the environment; the driver does when it is opened, here.
        unsafe { std::env::set_var("HANDLOOM_EMULATOR", "arch=sm_90a") };
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
        for tile in math.wgmma_tiles() {
            edges(math, tile).for_each(check);
        }
    }
}

#[test]
fn splits_are_summed_before_the_epilogue() {
    for math in MATHS {
        for tile in math.wgmma_tiles() {
            let k = 9 * tile.bk + 3;
            for (splits, fused) in [(2, Fused::Bias), (5, Fused::Residual), (10, Fused::Gelu(Form::Tanh))] {
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
    for math in MATHS {
        for splits in [1, 4] {
            for tile in math.wgmma_tiles() {
                let sizes = [tile.bm + 1, 70, 8 * tile.bk];
                let plan = Some(Plan::new(*tile, sizes[2], splits));
                let case = Case::new(math, sizes, false, false);
                let out = Place::aligned(1, sizes[0], sizes[1], Elem::F32);
                check(Case { plan, out, out_elem: Elem::F32, accumulate: true, ..case });
            }
        }
    }
}

#[test]
fn every_epilogue() {
    for math in MATHS {
        for tile in math.wgmma_tiles() {
            for fused in [
                Fused::Nothing,
                Fused::Bias,
                Fused::Gelu(Form::Tanh),
                Fused::Gelu(Form::Erf),
                Fused::Residual,
                Fused::GeluBackward(Form::Tanh),
                Fused::GeluBackward(Form::Erf),
            ] {
                for (rhs_k, accumulate) in [(false, false), (true, true)] {
                    let plan = Some(Plan::new(*tile, 37, 1));
                    check(Case { plan, fused, accumulate, ..Case::new(math, [67, 77, 37], true, rhs_k) });
                }
            }
        }
    }
}

#[test]
fn batches_and_strides() {
    for math in MATHS {
        for tile in math.wgmma_tiles() {
            let (m, n, k) = (33, 40, 2 * tile.bk);
            let case = Case::new(math, [m, n, k], true, false);
            let plan = Some(Plan::new(*tile, k, 2));
            let lhs = Place { batches: 3, ..case.lhs };
            let rhs = Place { batches: 3, batch_stride: k * case.rhs.row_stride + 16, ..case.rhs };
            let out = Place { batches: 3, batch_stride: m * case.out.row_stride + 8, ..case.out };
            check(Case { lhs, rhs, out, plan, fused: Fused::Residual, ..case.clone() });
            // Heads beside each other in the rows of one matrix: a batch is nearer than a row.
            let heads = Place { batches: 3, row_stride: 3 * k, batch_stride: k, ..case.lhs };
            check(Case { lhs: heads, rhs, out, plan, ..case.clone() });
            // Part of a larger matrix, from an aligned place on.
            let part = Place { row_stride: k + 24, start: 8, ..case.lhs };
            check(Case { lhs: part, plan: Some(Plan::new(*tile, k, 1)), ..case });
        }
    }
}

/// What `handloom selftest` runs on Hopper includes these kernels.
#[test]
fn a_walk_over_all_tiles_finds_them() {
    for math in MATHS {
        assert_eq!(tiles(gpu(), math).filter(|tile| tile.wgmma).count(), 2, "{math:?}");
    }
}

/// Without a plan the launcher chooses; what tensor copies cannot take goes to the other kernels.
#[test]
fn the_launcher_chooses_a_kernel_that_can() {
    for math in MATHS {
        let case = Case::new(math, [130, 264, 72], true, false);
        check(case.clone());
        let odd = Place { start: 1, ..case.lhs };
        check(Case { lhs: odd, ..case.clone() });
        let (lhs, rhs) =
            (Place { batches: 2, ..case.lhs }, Place { batches: 2, batch_stride: 0, ..case.rhs });
        let out = Place { batches: 2, ..case.out };
        check(Case { lhs, rhs, out, ..case.clone() });
        for sizes in [[0, 5, 7], [5, 0, 7], [5, 7, 0]] {
            check(Case::new(math, sizes, true, true));
        }
        let plan = Some(Plan::new(math.wgmma_tiles()[0], 72, 1));
        let refused =
            Case { lhs, rhs, out, plan, ..case }.launch(gpu()).expect_err("a shared operand").to_string();
        assert_eq!(
            refused,
            "matmul: wgmma takes f16 and bf16 operands that are not empty, one for each batch, on sm_90"
        );
    }
}
