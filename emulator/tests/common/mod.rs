//! Shared by the tests: a device with a module, and typed buffers.
#![allow(dead_code)] // each test file uses a part

pub mod hopper;
pub mod words;

use std::path::PathBuf;
use std::process::Command;

use handloom_emulator::tensormap::{Tiled, encode_tiled};
use handloom_emulator::{Arg, Device, LaunchConfig, LaunchReport, Loaded, Module, Options};

pub struct Run {
    pub device: Device,
    pub module: Loaded,
}

/// Numbers that buffers hold.
pub trait Number: Copy {
    const SIZE: usize;
    fn put(self, out: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($ty:ty),*) => { $(
        impl Number for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )* };
}
number!(u8, u16, u32, u64, i32, i64, f32, f64);

impl Run {
    pub fn new(ptx: &str, options: Options) -> Run {
        let mut device = Device::new(options);
        let module = device.load(&Module::parse(ptx).unwrap()).unwrap();
        Run { device, module }
    }

    /// A buffer with these contents.
    pub fn put<T: Number>(&mut self, name: &str, values: &[T]) -> u64 {
        let address = self.device.allocate((values.len() * T::SIZE) as u64, name).unwrap();
        let mut bytes = Vec::new();
        values.iter().for_each(|v| v.put(&mut bytes));
        self.device.write(address, &bytes).unwrap();
        address
    }

    /// A buffer nobody has written.
    pub fn empty<T: Number>(&mut self, name: &str, count: usize) -> u64 {
        self.device.allocate((count * T::SIZE) as u64, name).unwrap()
    }

    pub fn get<T: Number>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::SIZE];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks(T::SIZE).map(T::get).collect()
    }

    pub fn launch(&self, kernel: &str, config: LaunchConfig, args: &[Arg]) -> LaunchReport {
        self.device.launch(&self.module, kernel, config, args).unwrap()
    }

    /// Launches and expects no finding.
    #[track_caller]
    pub fn clean(&self, kernel: &str, config: LaunchConfig, args: &[Arg]) -> LaunchReport {
        let report = self.launch(kernel, config, args);
        assert!(report.is_clean(), "{}", report.text());
        report
    }
}

/// A small generator of test data (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32) - 1.0
    }
}

/// Fails on different lengths, NaN, or a difference beyond the tolerance.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], atol: f64, rtol: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let ok = f as f64 == e || (f as f64 - e).abs() <= atol + rtol * e.abs();
        assert!(ok, "element {i}: {f:e}, expected {e:e}");
    }
}

/// A tensor map of a dense tensor, as an argument: the driver's numbers for type and swizzle, bytes of an element.
pub fn tensor_map(
    data_type: u32,
    address: u64,
    dims: &[u64],
    boxes: &[u32],
    swizzle: u32,
    bytes: u64,
) -> Arg {
    let mut strides = Vec::new();
    dims[..dims.len() - 1].iter().fold(bytes, |stride, d| {
        strides.push(stride * d);
        stride * d
    });
    let tiled = Tiled {
        data_type,
        address,
        dims,
        strides: &strides,
        box_dims: boxes,
        element_strides: &vec![1; dims.len()],
        interleave: 0,
        swizzle,
        l2_promotion: 0,
        oob_fill: 0,
    };
    Arg(encode_tiled(&tiled).unwrap().to_vec())
}

/// A ptxas and a folder for what it reads and writes, removed at the end.
pub struct Ptxas {
    program: PathBuf,
    folder: PathBuf,
}

/// The ptxas that `HANDLOOM_PTXAS`, `CUDA_HOME`, `CUDA_PATH` or `PATH` gives; `name` tells tests apart.
pub fn ptxas(name: &str) -> Option<Ptxas> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let roots = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os);
    let mut candidates = std::env::var_os("HANDLOOM_PTXAS")
        .map(PathBuf::from)
        .into_iter()
        .chain(roots.map(|r| PathBuf::from(r).join("bin/ptxas")))
        .chain(std::env::split_paths(&path).map(|p| p.join("ptxas")));
    let program = candidates.find(|p| p.is_file())?;
    let folder = std::env::temp_dir().join(format!("handloom-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    Some(Ptxas { program, folder })
}

impl Ptxas {
    /// Compiles a text for a target.
    ///
    /// # Errors
    /// What ptxas says.
    pub fn compile(&self, target: &str, text: &str) -> Result<(), String> {
        let file = self.folder.join("k.ptx");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(&self.program);
        command.args([&format!("-arch={target}"), "-O0", "-o"]).arg(self.folder.join("k.cubin")).arg(&file);
        let output = command.output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Ptxas {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
