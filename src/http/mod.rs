//! Floor 3: parts that know HTTP and decide nothing.

pub mod model_name;
