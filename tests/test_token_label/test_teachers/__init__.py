# Copyright (c) the autoprog_mm authors. All rights reserved.
