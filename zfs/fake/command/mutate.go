package command

func (c *call) create(args []string) int   { return c.notModelled(c.verb) }
func (c *call) clone(args []string) int    { return c.notModelled(c.verb) }
func (c *call) snapshot(args []string) int { return c.notModelled(c.verb) }
func (c *call) destroy(args []string) int  { return c.notModelled(c.verb) }
func (c *call) mount(args []string) int    { return c.notModelled(c.verb) }
func (c *call) unmount(args []string) int  { return c.notModelled(c.verb) }
func (c *call) promote(args []string) int  { return c.notModelled(c.verb) }
func (c *call) rename(args []string) int   { return c.notModelled(c.verb) }
func (c *call) rollback(args []string) int { return c.notModelled(c.verb) }
func (c *call) hold(args []string) int     { return c.notModelled(c.verb) }
func (c *call) release(args []string) int  { return c.notModelled(c.verb) }
func (c *call) holds(args []string) int    { return c.notModelled(c.verb) }
