// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Marks what the shared libraries export; everything else is hidden.
#define PENSTOCK_EXPORT __attribute__((visibility("default")))
